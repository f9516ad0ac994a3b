"""RunRecordHook: what a training cost and where, and that a resumed run goes on counting."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.runs import run_config, train
from helpers.tiny_run import Numbers, Script, make_runner
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import log_processor
from torch.utils.data import DataLoader

from mmkd.engine.hooks import NaNStopHook, run_record
from mmkd.engine.hooks.run_record import RunRecordHook
from mmkd.version import __version__


class Clock:
    """Ticks once a call."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def record_of(folder: Path) -> dict:
    return json.loads((folder / 'run.json').read_text(encoding='utf-8'))


def test_seed_budget_hardware_and_versions(tmp_path: Path) -> None:
    train(run_config(tmp_path, randomness=dict(seed=5)))
    record = record_of(tmp_path / 'run')
    assert {
        key: record[key]
        for key in ('seed', 'iterations', 'batch_size', 'processes', 'torch', 'mmkd')
    } == dict(
        seed=5, iterations=4, batch_size=2, processes=1, torch=torch.__version__, mmkd=__version__
    )
    assert record['device'].endswith(f'{torch.get_num_threads()} threads')
    assert 'peak_gpu_mib' not in record or torch.cuda.is_available()
    assert record['cpu_seconds'] > 0
    assert 0 < record['seconds'] < 600
    assert (tmp_path / 'run' / record['log'] / 'vis_data').is_dir()
    assert record['log'] <= record['ended'] <= time.strftime('%Y%m%d_%H%M%S')


def test_a_test_says_what_it_was_on_and_tells_metrics_of_classes_apart(tmp_path: Path) -> None:
    def metric(prefix: str | None, wall: float) -> SimpleNamespace:
        name = f'{prefix}/mIoU' if prefix else 'mIoU'
        found = dict(IoU=dict(wall=wall))
        return SimpleNamespace(prefix=prefix, per_class=found, per_class_of=(name,))

    metrics = [metric(None, 1.0), metric('day', 2.0), metric('night', 3.0)]
    images = SimpleNamespace(dataset=list(range(233)))
    loop = SimpleNamespace(evaluator=SimpleNamespace(metrics=metrics), dataloader=images)
    data = dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=[dict(scale=(160, 120))])))
    cfg = Config(dict(test_dataloader=data))
    runner = SimpleNamespace(test_loop=loop, log_dir=str(tmp_path), cfg=cfg)
    values = {'mIoU': 1.0, 'day/mIoU': 2.0, 'night/mIoU': 3.0}
    RunRecordHook().after_test_epoch(runner, values)  # type: ignore[arg-type]
    assert json.loads((tmp_path / 'per_class.json').read_text()) == {
        'IoU': dict(wall=1.0),
        'day/IoU': dict(wall=2.0),
        'night/IoU': dict(wall=3.0),
    }
    assert json.loads((tmp_path / 'tested_on.json').read_text()) == dict(
        dataset='list', images=233, pipeline="[{'scale': (160, 120)}]"
    )


def test_steps_that_accumulate_and_a_config_without_randomness(tmp_path: Path) -> None:
    cfg = run_config(tmp_path)
    cfg.optim_wrapper.student.accumulative_counts = 2
    cfg.pop('randomness', None)
    cfg.custom_hooks = [
        hook for hook in cfg.custom_hooks if 'ExactResume' not in hook.type
    ]  # it needs a seed
    train(Config(cfg.to_dict()))  # of no file
    record = record_of(tmp_path / 'run')
    assert (record['accumulative_counts'], record['seed'], record['config']) == (2, None, None)


def test_what_hooks_do_before_the_training_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as fitting a vocabulary: the clock begins before any ``before_train``."""
    clock = Clock(1.0)
    monkeypatch.setattr(run_record, 'perf_counter', clock)
    monkeypatch.setattr(NaNStopHook, 'before_train', lambda *_: clock(), raising=False)
    train(run_config(tmp_path, max_iters=2))  # begin 1, the other hook 2, checkpoint 3, end 4
    assert record_of(tmp_path / 'run')['seconds'] == 3


def test_a_resumed_run_goes_on_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run reads the clocks at its begin, at each of its checkpoints, and at its end."""
    monkeypatch.setattr(run_record, 'perf_counter', Clock(1.0))
    monkeypatch.setattr(run_record, '_processor_seconds', Clock(10.0))
    train(run_config(tmp_path, max_iters=2))  # begin 1, checkpoint 2, end 3
    assert record_of(tmp_path / 'run')['seconds'] == 2
    train(run_config(tmp_path), resume=True)  # 1 in the checkpoint; begin 4, checkpoint 5, end 6
    record = record_of(tmp_path / 'run')
    assert (record['seconds'], record['cpu_seconds'], record['iterations']) == (3, 30, 4)


def test_the_peak_is_that_of_the_training_and_not_since_the_last_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulated allocator: a step takes 5,000 MiB, a validation 700, 300 stay."""
    mib, now = 2**20, dict(peak=9000)  # of whatever the process did before
    cuda = SimpleNamespace(
        is_available=lambda: True,
        max_memory_allocated=lambda device=None: now['peak'] * mib,
        reset_peak_memory_stats=lambda device=None: now.update(peak=300),
    )
    monkeypatch.setattr(run_record, 'torch', SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(log_processor, 'is_cuda_available', lambda: True)
    for name in ('max_memory_allocated', 'reset_peak_memory_stats'):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))

    class Allocates(Hook):
        priority = 'HIGHEST'
        step = 5000

        def after_train_iter(self, *args: object, **kwargs: object) -> None:
            now['peak'] = max(now['peak'], self.step)

        def after_val_iter(self, *args: object, **kwargs: object) -> None:
            now['peak'] = max(now['peak'], 700)

    def trained(iters: int, resume: bool, step: int) -> int:
        runner = make_runner(
            tmp_path,
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
            max_iters=iters,
            val_interval=2,
            metric=Script([1.0, 1.0]),
            resume=resume,
        )
        next(hook for hook in runner.hooks if isinstance(hook, LoggerHook)).interval = 1
        runner.register_hook(RunRecordHook())
        hook = Allocates()
        hook.step = step
        runner.register_hook(hook)
        runner.train()
        return record_of(tmp_path)['peak_gpu_mib']

    assert trained(2, resume=False, step=5000) == 5000
    assert trained(4, resume=True, step=4000) == 5000, 'of the part before the resume'


def test_weights_alone_are_no_resume(tmp_path: Path) -> None:
    """A run that only loads another's weights begins at zero."""
    hook = RunRecordHook()
    runner = type('Runner', (), dict(_resume=False))()
    hook.after_load_checkpoint(runner, dict(mmkd_run_record=dict(seconds=7.0, cpu_seconds=9.0)))
    assert hook.spent == dict(seconds=0.0, cpu_seconds=0.0)
    runner._resume = True
    hook.after_load_checkpoint(runner, dict(mmkd_run_record=dict(seconds=7.0, cpu_seconds=9.0)))
    assert hook.spent == dict(seconds=7.0, cpu_seconds=9.0)


@pytest.mark.parametrize(
    'noted', ['text', 5, None, {}, dict(seconds='x', cpu_seconds=float('nan'))]
)
def test_what_a_checkpoint_notes_is_no_number(noted: object) -> None:
    hook = RunRecordHook()
    hook.after_load_checkpoint(
        type('Runner', (), dict(_resume=True))(), dict(mmkd_run_record=noted)
    )
    assert hook.spent == dict(seconds=0.0, cpu_seconds=0.0)


def test_a_data_loader_that_is_built_already(tmp_path: Path) -> None:
    """Then the config says nothing of the batch."""
    data = Numbers()
    make_runner(
        tmp_path,
        max_iters=2,
        custom_hooks=[dict(type='mmkd.RunRecordHook')],
        train_dataloader=DataLoader(data, 3, sampler=InfiniteSampler(data)),
    ).train()
    assert record_of(tmp_path)['batch_size'] == 3
