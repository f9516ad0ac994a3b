"""The preset funmatch: the official formula times the official weight, on one mixture for both."""

from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.classification import distiller as classifiers
from helpers.unlabelled import observe

from mmkd.methods.expand import expand

KL_WEIGHT = 1.0  # the authors' loss is the distance alone, distance_kw=dict(t=1.0)


def by_name(**options: Any) -> Any:
    torch.manual_seed(0)
    model = tiny.distiller(
        student=dict(model=tiny.segmentor(4, dropout=0.0, size=32)),
        teacher=dict(model=tiny.segmentor(8, size=32), allow_untrained=True),
        method=dict(type='funmatch', **options),
    )
    for key in ('objectives', 'taps'):
        model.pop(key)
    return tiny.build(model)


def test_the_value_is_the_mean_kl_of_the_mixtures():
    model = by_name()
    data = tiny.batch(3, 32)
    record, own = observe(model, data)
    total, log = model.parse_losses({**own, **model.compare(model.objectives, record)})
    torch.manual_seed(5)
    a = torch.distributions.Beta(torch.tensor(1.0).double(), torch.tensor(1.0).double()).sample()
    share = torch.maximum(a, 1 - a).float()
    images = model.data_preprocessor(tiny.batch(3, 32), True)['inputs']
    mixed = share * images + (1 - share) * torch.roll(images, 1, 0)
    torch.testing.assert_close(record.batch.inputs, mixed)
    s, t = record['student']['logits'], record['teacher']['logits']
    p = t.softmax(1)
    kl = (p * (p.log() - s.softmax(1).log())).sum(1).mean()
    assert total.item() == pytest.approx(KL_WEIGHT * kl.item(), rel=1e-5)
    assert log['decode.loss_ce'] == 0


def test_options():
    assert not by_name(mixup=0).shared_noises.each
    model = by_name(task_weight=0.5, mixup=0.3, tau=2.0, weight=3.0)
    (noise,) = model.shared_noises.each
    assert (noise.alpha, noise.images, model.task_weight) == (0.3, 'unlabelled', 0.5)
    assert model.objectives['pixel'].loss.tau == 2.0
    assert model.objectives['pixel'].weight == 3.0


def test_classifiers_too():
    config = classifiers()
    made, _ = expand(
        {**{k: v for k, v in config.items() if k != 'objectives'}, 'method': 'funmatch'}
    )
    assert made['objectives']['kd']['loss'] == dict(type='PixelWiseKLLoss', tau=1.0)
    assert made['task_weight'] == 0.0
    assert made['noise'] == [dict(type='InputMixup', alpha=1.0)]
