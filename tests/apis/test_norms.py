"""BatchNorm with one image: where it fails, and whether a run's last batch comes to that."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import model_of, run_config
from helpers.tiny import segmentor
from mmengine.registry import MODELS
from torch import nn

from mmkd.apis.doctor import diagnose
from mmkd.apis.launch import build_runner
from mmkd.apis.norms import check_last_batch, judge_one_image, last_batch_of_one, norm_of_one_value
from mmkd.apis.prepare import prepare_config


def net(**changes: Any) -> nn.Module:
    return MODELS.build({**segmentor(4, **changes), '_scope_': 'mmseg'}).train()


@pytest.mark.bad_input
@pytest.mark.parametrize('changes', [dict(), dict(head='FCNHead'), dict(norm='SyncBN')])
def test_it_is_known_which_networks_fail(changes: dict) -> None:
    """torch itself decides: one image through the network in training."""
    model = net(**changes)
    path = norm_of_one_value(model)
    assert (path is not None) == (not changes)
    if changes == dict(norm='SyncBN'):  # other devices bring more images
        return
    if path is None:
        model(torch.randn(1, 3, 64, 64), mode='tensor')
        return
    assert path == 'decode_head.psp_modules.0.1.bn'
    with pytest.raises(ValueError, match='Expected more than 1 value per channel'):
        model(torch.randn(1, 3, 64, 64), mode='tensor')
    model.get_submodule(path).eval()
    assert norm_of_one_value(model) is None, 'a frozen norm takes one value'


@pytest.mark.parametrize(
    ('samples', 'batch', 'drop', 'processes'),
    [
        (6, 5, False, 1),
        (6, 5, True, 1),
        (6, 3, False, 1),
        (1, 5, False, 1),
        (11, 5, False, 2),
        (12, 5, False, 2),
        (21, 10, False, 2),
        (6, 1, False, 1),
    ],
)
def test_last_batches_by_counting_them(
    samples: int, batch: int, drop: bool, processes: int
) -> None:
    """Compare with the batches of each process, samples filled up as samplers do."""
    own = [len(range(rank, samples + -samples % processes, processes)) for rank in range(processes)]
    lengths = {tuple(len(range(n)[i : i + batch]) for i in range(0, n, batch)) for n in own}
    (batches,) = lengths
    expected = batch > 1 and not drop and batches[-1] == 1
    assert (last_batch_of_one(samples, batch, drop, processes) is not None) == expected


def test_an_error_a_warning_or_nothing() -> None:
    found = last_batch_of_one(6, 5, drop_last=False)
    error, warning = judge_one_image([net()], *found)
    assert error == (
        'the last batch of every pass over the data has one image (6 samples by 5), and the '
        "BatchNorm 'decode_head.psp_modules.0.1.bn' fails on one value for each channel. Mend: "
        'train_dataloader.drop_last=True, or another batch_size'
    )
    assert warning is None
    error, warning = judge_one_image([net(head='FCNHead')], *found)
    assert error is None
    assert 'whose BatchNorm statistics are noise. Mend: train_dataloader.drop_last=True' in warning
    assert judge_one_image([nn.Linear(1, 1)], *found) == (None, None)


def by_epoch(folder: Path, loop: str, exact: bool = True, **changes: Any) -> Any:
    length = dict(max_epochs=1) if 'Epoch' in loop else dict(max_iters=2)
    cfg = run_config(folder, model=model_of(critic=False))
    cfg.train_cfg = dict(type=loop, val_interval=1, **length)
    cfg.train_dataloader.update(
        dict(batch_size=5, sampler=dict(type='DefaultSampler', shuffle=False)) | changes
    )
    if not exact:
        cfg.custom_hooks = []
    return cfg


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('loop', 'exact', 'changes', 'fails'),
    [
        ('EpochBasedTrainLoop', True, {}, True),
        ('EpochBasedTrainLoop', True, dict(drop_last=True), False),
        ('IterBasedTrainLoop', True, {}, False),  # batches straddle passes
        ('IterBasedTrainLoop', False, {}, True),
        ('IterBasedTrainLoop', False, dict(sampler=dict(type='InfiniteSampler')), False),
    ],
)
def test_it_is_said_before_training_and_by_the_doctor(
    tmp_path: Path, loop: str, exact: bool, changes: dict, fails: bool
) -> None:
    cfg = by_epoch(tmp_path, loop, exact, **changes)
    report = diagnose(cfg, device='cpu')
    said = 'the last batch of every pass over the data has one image (6 samples by 5)'
    assert any(said in text for text in report.errors) is fails
    runner = build_runner(prepare_config(cfg))
    if fails:
        with pytest.raises(
            ValueError,
            match='has one image .6 samples by 5., and the BatchNorm .* fails on one value',
        ):
            check_last_batch(runner)
    else:
        check_last_batch(runner)
