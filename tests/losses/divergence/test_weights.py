"""``weight`` of every divergence: how often a position counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd import losses

SHAPE = (2, 5, 4)
COUNTS = torch.tensor([[1, 0, 3, 2], [2, 2, 1, 1]])
LABELS = torch.tensor([[0, 4, 2, 1], [3, 255, 0, 2]])
# name -> function, options
CASES: dict[str, tuple[Callable, dict[str, Any]]] = {
    'pixel_wise_kl': (losses.pixel_wise_kl, {}),
    'pixel_wise_kl reverse': (losses.pixel_wise_kl, dict(direction='reverse', tau=2.0)),
    'pixel_wise_kl js': (losses.pixel_wise_kl, dict(direction='js')),
    'pixel_wise_kl alpha-beta': (
        losses.pixel_wise_kl,
        dict(direction=('alpha-beta', 0.5, 2.0)),
    ),
    'pixel_wise_kl standardize': (losses.pixel_wise_kl, dict(standardize=True)),
    'pixel_wise_kl batch_sum': (losses.pixel_wise_kl, dict(reduction='batch_sum')),
    'channel_wise_kl': (losses.channel_wise_kl, {}),
    'channel_wise_kl groups': (losses.channel_wise_kl, dict(groups=2)),
    'dist': (losses.dist, dict(inter=2.0, intra=3.0)),
    'decoupled_kl': (losses.decoupled_kl, dict(labels=True)),
    'top_k_decoupled_kl': (losses.top_k_decoupled_kl, {}),
    'normalized_kl': (losses.normalized_kl, dict(labels=True)),
    'weighted_soft_labels': (losses.weighted_soft_labels, dict(labels=True)),
    'boosted_target_ce': (losses.boosted_target_ce, dict(labels=True, power=1.5)),
    'localization_kl': (losses.localization_kl, dict(edges=1)),
    'soft_jaccard': (losses.soft_jaccard, {}),
    'soft_jaccard image': (losses.soft_jaccard, dict(scope='image', metric='dice')),
}


def draw() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, *SHAPE, dtype=torch.float64, generator=generator)
    return student.requires_grad_(), 2 * teacher


def repeated(x: Tensor) -> Tensor:
    """Return (N, …, P) with each position as often as it counts."""
    return torch.stack([x[i].repeat_interleave(COUNTS[i], -1) for i in range(len(x))])


def call(name: str, student: Tensor, teacher: Tensor, **given: Any) -> Tensor:
    function, options = CASES[name]
    labels = given.pop('labels', LABELS)
    own = dict(labels=labels) if options.get('labels') else {}
    return function(student, teacher, **{**options, **own}, **given)


@pytest.mark.parametrize('name', CASES)
def test_a_weight_of_one_changes_nothing(name: str) -> None:
    student, teacher = draw()
    ones = torch.ones(2, 4, dtype=torch.float64)
    mask = COUNTS != 1
    for given in ({}, dict(mask=mask)):
        values = [call(name, student, teacher, **given, **w) for w in ({}, dict(weight=ones))]
        torch.testing.assert_close(*values, rtol=1e-14, atol=0)
        torch.testing.assert_close(*(torch.autograd.grad(v, student)[0] for v in values))


@pytest.mark.parametrize('name', CASES)
def test_a_weight_is_how_often_a_position_counts(name: str) -> None:
    """And its unit is arbitrary."""
    student, teacher = draw()
    expected = call(name, repeated(student), repeated(teacher), labels=repeated(LABELS))
    for unit in (1.0, 0.01):
        value = call(name, student, teacher, weight=unit * COUNTS.double())
        torch.testing.assert_close(value, expected)
    assert abs(value - call(name, student, teacher)) > 1e-3


@pytest.mark.parametrize('name', CASES)
def test_a_weight_of_zero_is_a_mask(name: str) -> None:
    """What lies there, or in a weight under a mask, reaches neither value nor gradient."""
    student, teacher = draw()
    hidden = (COUNTS == 1)[:, None]
    mask = COUNTS != 1
    clean = call(name, student, teacher, mask=mask)
    spoilt = student.detach().masked_fill(hidden, torch.nan).requires_grad_()
    nan = torch.ones(2, 4, dtype=torch.float64).masked_fill(~mask, torch.nan)
    for given in (dict(weight=mask.double()), dict(weight=nan, mask=mask)):
        value = call(name, spoilt, teacher.masked_fill(hidden, torch.nan), **given)
        torch.testing.assert_close(value, clean, rtol=1e-14, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(value, spoilt)[0],
            torch.autograd.grad(clean, student, retain_graph=True)[0],
        )


@pytest.mark.parametrize('name', CASES)
def test_a_weight_of_nothing_is_zero(name: str) -> None:
    student, teacher = draw()
    value = call(name, student, teacher, weight=torch.zeros(2, 4))
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()


@pytest.mark.parametrize('name', CASES)
def test_bad_weights(name: str) -> None:
    student, teacher = draw()
    with pytest.raises(TypeError, match='weight must be a float tensor.*got torch.bool'):
        call(name, student, teacher, weight=COUNTS > 0)
    with pytest.raises(ValueError, match=r'weight must have the shape \(2, 4\).*got \(2, 3\)'):
        call(name, student, teacher, weight=torch.ones(2, 3))
