"""What every loss shares: names, weights, registries."""

import mmengine.registry
import mmseg.registry
import pytest
import torch
from torch import nn

from mmkd.losses.as_loss import role_of
from mmkd.losses.base import snake_case
from mmkd.registry import build_part

LOSSES = {
    'PixelWiseKLLoss': ({}, 'loss_pixel_wise_kl_loss', ('channels', 'size')),
    'PairWiseAffinityLoss': ({}, 'loss_pair_wise_affinity_loss', ('size',)),
    'AdversarialLoss': (
        {'critic': nn.Conv2d(3, 1, 1)},
        'loss_adversarial_loss',
        ('channels', 'size'),
    ),
}


@pytest.mark.parametrize('registry', [mmengine.registry.MODELS, mmseg.registry.MODELS])
@pytest.mark.parametrize('name', LOSSES)
def test_builds_from_every_registry_and_weighs_its_value(
    registry: mmengine.registry.Registry, name: str
) -> None:
    options, loss_name, alike = LOSSES[name]
    loss = registry.build(dict(type=f'mmkd.{name}', **options))
    heavy = registry.build(
        dict(type=f'mmkd.{name}', loss_weight=2.5, loss_name='loss_mine', **options)
    )
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert loss(student=student, teacher=teacher).shape == ()
    assert heavy(student, teacher).item() == pytest.approx(
        2.5 * loss(student, teacher).item(), rel=1e-6
    )
    assert (loss.loss_name, heavy.loss_name) == (loss_name, 'loss_mine')
    assert role_of(loss, 'student').alike == role_of(loss, 'teacher').alike == alike


@pytest.mark.parametrize('weight', [0, -1.0, float('nan'), float('inf'), True])
@pytest.mark.parametrize('name', LOSSES)
def test_a_weight_that_contributes_nothing_is_refused(name: str, weight: float) -> None:
    with pytest.raises(
        ValueError, match=f'loss_weight must be a finite number above 0, got {weight}'
    ):
        build_part(dict(type=name, loss_weight=weight, **LOSSES[name][0]))


@pytest.mark.parametrize(
    ('name', 'snake'),
    [
        ('DirichletNLLLoss', 'dirichlet_nll_loss'),
        ('LogitMSELoss', 'logit_mse_loss'),
        ('QUEST2Loss', 'quest2_loss'),
    ],
)
def test_snake_case(name: str, snake: str) -> None:
    assert snake_case(name) == snake
