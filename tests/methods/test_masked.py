"""Presets of masks and regions have the value of the official formula and weight."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.runs import model_of, run_config, train

from mmkd.methods import Pair, find_method
from mmkd.registry import build_part
from mmkd.tasks import Segmentation

PAIR = Pair(Segmentation(19))


@pytest.mark.parametrize('on', ['logits', 'feature'])
def test_maskd(on: str) -> None:
    """MasKDLoss of the authors, λ 1: masks of 8 tokens multiply both maps before the square."""
    plan = find_method('maskd')(PAIR, on=on, power=2)
    one = plan.objectives['maskd']
    assert plan.hooks == [dict(type='mmkd.FitHook')]
    loss = build_part(dict(one['loss'])).double()
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        scale * torch.randn(2, 19, 8, 16, dtype=torch.float64, generator=generator)
        for scale in (1, 3)
    )
    loss.build(student=student, teacher=teacher)
    tokens = loss.tokens.double().tokens
    assert tokens.shape == (8, 19)
    tokens.copy_(torch.randn(8, 19, generator=generator))

    mask = (tokens.expand(2, -1, -1) @ teacher.view(2, 19, -1)).sigmoid().view(2, 8, 8, 16)
    ours, theirs = (x.unsqueeze(1) * mask.unsqueeze(2) for x in (student, teacher))
    squares = ((ours - theirs) ** 2).sum((3, 4)) / (mask.sum((2, 3)).unsqueeze(-1) + 1e-5)
    official = 1.0 * (squares.mean() * 0.5)
    assert one['weight'] * loss(student, teacher).item() == pytest.approx(official.item(), rel=1e-6)
    # without the second factor, the default, it is a weighted mean: half the mean square
    one = find_method('maskd')(PAIR, on=on).objectives['maskd']
    loss = build_part(dict(one['loss'], teacher_channels=19))
    loss.tokens.tokens.zero_()
    half = F.mse_loss(student, teacher).item() / 2
    assert one['weight'] * loss(student, teacher).item() == pytest.approx(half, rel=1e-6)


@pytest.mark.bad_input
def test_maskd_refuses_other_maps() -> None:
    with pytest.raises(ValueError, match=r"on must be one of \('logits', 'feature'\)"):
        find_method('maskd')(PAIR, on='stages')


@pytest.mark.parametrize('on', ['logits', 'feature'])
def test_maskd_by_name_fits_and_trains(tmp_path: Path, on: str) -> None:
    model = model_of(critic=False, method=dict(type='maskd', on=on, steps=4))
    del model['objectives'], model['taps']
    cfg = run_config(tmp_path, model, max_iters=2, val_interval=9)
    runner = train(cfg)
    assert runner.model.objectives.maskd.loss.part.fitted
    assert runner.message_hub.log_scalars['train/maskd.loss'].data[0][-1] > 0
