"""The length of a run, said once: what follows, what stays, and a Runner that was never told."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import run_config, train
from mmengine.config import Config
from mmengine.hooks import LoggerHook
from mmengine.logging import MMLogger
from mmengine.optim import PolyLR
from mmengine.runner import Runner

from mmkd.apis.launch import load_config
from mmkd.apis.length import follow_length
from mmkd.apis.prepare import prepare_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
WARM = dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False)
POLY = dict(type='PolyLR', power=0.9, begin=100, by_epoch=False)


def config(**changes: Any) -> Config:
    """Return the settings that a length decides on, all left out."""
    return Config(
        deepcopy(
            dict(
                train_cfg=dict(type='IterBasedTrainLoop', max_iters=880),
                val_cfg=dict(type='ValLoop'),
                param_scheduler=[WARM, POLY],
                default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False)),
            )
            | changes
        )
    )


def test_what_is_left_out_follows() -> None:
    cfg = follow_length(config())
    assert cfg.train_cfg.val_interval == 880
    assert cfg.default_hooks.checkpoint.interval == 880
    assert cfg.param_scheduler == [WARM, POLY | dict(end=880)]
    assert follow_length(deepcopy(cfg)).to_dict() == cfg.to_dict(), 'twice is once'


def test_what_is_written_out_wins() -> None:
    written = config(
        train_cfg=dict(max_iters=880, val_interval=100),
        param_scheduler=[WARM, POLY | dict(end=500)],
        default_hooks=dict(checkpoint=dict(by_epoch=False, interval=200)),
    )
    assert follow_length(deepcopy(written)).to_dict() == written.to_dict()


def test_the_checkpoint_follows_the_validation() -> None:
    cfg = follow_length(config(train_cfg=dict(max_iters=880, val_interval=110)))
    assert cfg.default_hooks.checkpoint.interval == 110


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        (dict(), False),
        (dict(default_hooks=dict(logger=dict(type='LoggerHook', interval=9))), False),
        (dict(default_hooks=dict(logger=dict(type=LoggerHook))), False),
        (dict(default_hooks=dict(logger=dict(type='LoggerHook', log_metric_by_epoch=True))), True),
        (dict(train_cfg=dict(by_epoch=True, max_epochs=2)), None),
        (dict(default_hooks=dict(logger=None)), None),
        (dict(default_hooks=dict(logger=dict(type='MyHook'))), None),
    ],
)
def test_validations_are_logged_by_iterations(changes: dict, expected: bool | None) -> None:
    """mmengine logs them by epochs: in a run by iterations all were at 0."""
    cfg = prepare_config(config(model=dict(type='EncoderDecoder'), param_scheduler=None, **changes))
    hook = (cfg.get('default_hooks') or {}).get('logger') or {}
    assert hook.get('log_metric_by_epoch') == expected


@pytest.mark.parametrize('interval', ['val', 'checkpoint'])
def test_no_interval_is_longer_than_the_run(interval: str) -> None:
    """At its end a run is validated and saved in any case."""
    part = (
        dict(train_cfg=dict(max_iters=880, val_interval=1000))
        if interval == 'val'
        else dict(default_hooks=dict(checkpoint=dict(by_epoch=False, interval=4000)))
    )
    cfg = follow_length(config(**part))
    assert (cfg.train_cfg.val_interval, cfg.default_hooks.checkpoint.interval) == (880, 880)


def test_a_run_is_validated_at_its_end_however_late_validations_were_to_begin() -> None:
    loop = dict(type='IterBasedTrainLoop', max_iters=10, val_begin=20, val_interval=5)
    assert follow_length(config(train_cfg=loop)).train_cfg.val_begin == 10


def test_a_run_that_saves_nothing_stays_one() -> None:
    hook = dict(by_epoch=False, interval=4000, save_last=False)
    assert (
        follow_length(config(default_hooks=dict(checkpoint=hook))).default_hooks.checkpoint == hook
    )


@pytest.mark.parametrize(
    ('scheduler', 'filled'),
    [
        (dict(type='CosineAnnealingLR', eta_min=0, by_epoch=False), dict(end=880, T_max=880)),
        (dict(type='CosineAnnealingLR', begin=80, by_epoch=False), dict(end=880, T_max=800)),
        (dict(type='CosineAnnealingLR', T_max=50, by_epoch=False), {}),  # up and down
        (dict(type='LinearLR', end_factor=0.0, begin=100, by_epoch=False), dict(end=880)),
        (dict(type=PolyLR, by_epoch=False), dict(end=880)),
        (dict(type='mmengine.PolyMomentum', by_epoch=False), dict(end=880)),
        (dict(type='MultiStepLR', milestones=[3], by_epoch=False), {}),  # shaped by its milestones
        (dict(type='PolyLR', by_epoch=True), {}),  # of passes, which the loop does not count
        (dict(type='PolyLR', begin=900, by_epoch=False), dict(end=901)),
    ],
)  # never reached
@pytest.mark.parametrize('shape', ['alone', 'a list', 'by name', 'lists by name'])
def test_which_schedules_need_an_end(scheduler: dict, filled: dict, shape: str) -> None:
    shapes = {
        'alone': scheduler,
        'a list': [scheduler],
        'by name': dict(student=scheduler),
        'lists by name': dict(student=[scheduler], critic=[]),
    }
    found = follow_length(config(param_scheduler=deepcopy(shapes[shape]))).param_scheduler
    found = found.get('student', found) if isinstance(found, dict) else found
    assert (found[0] if isinstance(found, list) else found) == scheduler | filled


def test_passes() -> None:
    """By epochs a schedule follows max_epochs; mmengine validates after each by itself."""
    cfg = follow_length(
        config(
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=7),
            param_scheduler=[dict(type='PolyLR')],
            default_hooks=dict(checkpoint=dict(by_epoch=True)),
        )
    )
    assert cfg.param_scheduler == [dict(type='PolyLR', end=7)]
    assert 'val_interval' not in cfg.train_cfg
    assert cfg.default_hooks.checkpoint == dict(by_epoch=True)


def test_a_config_without_a_training() -> None:
    assert follow_length(Config(dict(model=dict()))).to_dict() == dict(model=dict())


def test_what_is_filled_in_stands_where_one_writes_it() -> None:
    """A finished member of an ensemble is known by a digest in which the order counts."""
    cfg = follow_length(
        config(
            param_scheduler=[
                dict(type='CosineAnnealingLR', eta_min=0, begin=0, by_epoch=False),
                dict(type='PolyLR', by_epoch=False),
            ]
        )
    )
    assert [list(s) for s in cfg.param_scheduler] == [
        ['type', 'T_max', 'eta_min', 'begin', 'end', 'by_epoch'],
        ['type', 'by_epoch', 'end'],
    ]
    assert list(cfg.train_cfg) == ['type', 'max_iters', 'val_interval']


@pytest.mark.parametrize(
    'path',
    [
        'quest/quest_resnet20-resnet8_cifar10',
        'pairs/baseline_unet_digit-scenes',
        'structured_kd/structured_kd_pspnet_r101-r18_cityscapes-512x512-40k',
    ],
)
def test_the_command_line_shortens_all_of_it(path: str, tmp_path: Path) -> None:
    cfg = prepare_config(
        load_config(str(CONFIGS / f'{path}.py'), {'train_cfg.max_iters': 150}, str(tmp_path))
    )
    assert cfg.param_scheduler[-1].end == 150
    assert cfg.train_cfg.val_interval <= 150
    assert cfg.default_hooks.checkpoint.interval == 150


def left_out(folder: Path) -> Config:
    """Return a run of four iterations whose config says no more than that."""
    cfg = run_config(folder)
    del (
        cfg.train_cfg['val_interval'],
        cfg.default_hooks.checkpoint['interval'],
        cfg.param_scheduler[0]['end'],
    )
    return cfg


def test_a_runner_that_was_not_prepared_is_refused(tmp_path: Path) -> None:
    runner = Runner.from_cfg(left_out(tmp_path))
    with pytest.raises(
        ValueError,
        match=(
            r'leaves out train_cfg.val_interval, default_hooks.checkpoint.interval, '
            r'param_scheduler\[0\].end, and .*Mend: mmkd train; or '
            r'mmkd.launch.prepare_config\(cfg\) before Runner.from_cfg\(cfg\); or write '
            r'train_cfg.val_interval = 4'
        ),
    ):
        runner.train()
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_a_runner_that_was_not_prepared_may_be_tested(tmp_path: Path) -> None:
    assert 'mIoU' in Runner.from_cfg(left_out(tmp_path)).test()


def test_a_prepared_run_ends_where_its_schedule_does(tmp_path: Path) -> None:
    runner = train(left_out(tmp_path))
    assert runner.param_schedulers['student'][0].end == 4 == runner.train_loop.val_interval
    assert sorted(path.name for path in (tmp_path / 'run').glob('iter_*.pth')) == ['iter_4.pth']


def test_an_accumulation_need_not_divide_the_length(tmp_path: Path) -> None:
    """At the end of a run every optimizer steps: the last checkpoint holds no half gradient."""
    cfg = left_out(tmp_path)
    cfg.optim_wrapper.student.accumulative_counts = 3
    cfg.optim_wrapper.critic.accumulative_counts = 3
    assert train(cfg).iter == 4


def test_a_resumed_run_is_told_of_another_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mmengine goes on with the schedule that the checkpoint holds, of the shorter run."""
    told: list[str] = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, text, *args: told.append(str(text)))
    train(left_out(tmp_path))
    longer = left_out(tmp_path)
    longer.train_cfg.max_iters = 6
    train(longer, resume=True)
    assert [
        text for text in told if 'schedule that ends at 4' in text and 'the config says 6' in text
    ]
    told.clear()
    again = left_out(tmp_path)
    again.train_cfg.max_iters, again.param_scheduler[0]['end'] = 8, 4
    train(again, resume=True)
    assert not [text for text in told if 'schedule that ends' in text]
