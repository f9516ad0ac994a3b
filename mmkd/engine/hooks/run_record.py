"""What a training cost and where it ran, and what a test found of each class, for mmkd report.

The first is written beside the checkpoints, the second beside the test's own numbers.
"""

import json
import os
from math import isfinite
from pathlib import Path
from time import perf_counter, strftime
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size, master_only
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from mmkd.engine.hooks.unlabelled import UnlabelledHook
from mmkd.registry import HOOKS
from mmkd.utils.atomic import write_atomically
from mmkd.utils.pipelines import find_pipeline
from mmkd.utils.timing import environment

FILE = 'run.json'
PER_CLASS = 'per_class.json'
TESTED_ON = 'tested_on.json'


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Write ``<work_dir>/run.json`` when the training ends: seed, budget, time, hardware, versions.

    ``log`` is the name of its folder of logs, ``ended`` when it ended, written the same way: an
    earlier test is not of these weights.

    ``images`` says how many have labels and how many have none, where some have none.

    After a test, ``per_class.json`` in its folder of logs says what a metric found of each class:
    metric -> class -> value, null of a class that is not there. A metric with a prefix has it here
    too. ``tested_on.json`` says what was tested on: the data set, how many images, the pipeline.

    ``seconds`` is wall time with validations, checkpoints and what hooks do before the training
    (fit a vocabulary, check teachers), ``cpu_seconds`` what the processor worked for it, in this
    process and in workers that have ended; both go on from the checkpoint where a run is resumed,
    as does ``peak_gpu_mib``, the most that tensors of the first device took at once.

    Examples:
        >>> RunRecordHook().spent
        {'seconds': 0.0, 'cpu_seconds': 0.0}
    """

    priority = 'VERY_LOW'  # after the hook that ends the workers

    def __init__(self) -> None:
        self.spent = dict(seconds=0.0, cpu_seconds=0.0)
        self.peak = 0  # bytes
        self._begin = (0.0, 0.0)

    def before_run(self, runner: Runner) -> None:
        """Start the clocks; a resumed run restores what was spent before."""
        self._begin = (perf_counter(), _processor_seconds())
        if torch.cuda.is_available():
            self.peak = 0
            torch.cuda.reset_peak_memory_stats()
            # mmengine begins anew to look for the peak with every line of the log
            self._before_each_reset(runner.log_processor)

    def _before_each_reset(self, processor: Any) -> None:
        read = processor._get_max_memory

        def noting(runner: Runner) -> int:
            self._note_peak()
            return read(runner)

        processor._get_max_memory = noting

    def _note_peak(self) -> None:
        self.peak = max(self.peak, torch.cuda.max_memory_allocated())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write down what was spent so far."""
        noted: dict[str, float] = self._so_far()
        if torch.cuda.is_available():
            self._note_peak()
            noted['peak'] = self.peak
        checkpoint['mmkd_run_record'] = noted

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on from there, if the run is resumed."""
        if runner._resume:
            noted = checkpoint.get('mmkd_run_record')
            if isinstance(noted, dict):  # a number each, whatever the file says
                self.spent = {key: _number(noted.get(key)) for key in self.spent}
                self.peak = max(self.peak, int(_number(noted.get('peak'))))

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the record."""
        device = get_device()
        found = environment(device)
        record: dict[str, Any] = dict(
            config=Path(runner.cfg.filename).name if runner.cfg.filename else None,
            seed=runner._randomness_cfg.get('seed'),  # of the checkpoint, where the run was resumed
            iterations=runner.iter,
            batch_size=runner.train_dataloader.batch_size,
            processes=get_world_size(),
            accumulative_counts=max(_accumulations(runner.optim_wrapper)),
            **{key: round(value, 1) for key, value in self._so_far().items()},
            **{key: found[key] for key in ('device', 'torch', 'mmkd')},
            log=runner.timestamp,
            ended=strftime('%Y%m%d_%H%M%S'),
        )
        for hook in runner.hooks:
            if isinstance(hook, UnlabelledHook) and hook.images is not None:
                record['images'] = dict(labelled=hook.images[0], unlabelled=hook.images[1])
        if torch.cuda.is_available():
            self._note_peak()
            record['peak_gpu_mib'] = self.peak // 2**20
        text = json.dumps(record, indent=1, ensure_ascii=False) + '\n'
        write_atomically(text.encode(), Path(runner.work_dir) / FILE)

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write what was tested on, and what was found of each class but of several students."""
        data = runner.test_loop.dataloader.dataset
        pipeline = repr(_test_pipeline(runner.cfg))
        tested: dict[str, Any] = dict(dataset=type(data).__name__, pipeline=pipeline)
        if hasattr(data, '__len__'):
            tested['images'] = len(data)
        write_atomically(json.dumps(tested, indent=1).encode(), Path(runner.log_dir) / TESTED_ON)
        evaluator = getattr(runner.test_loop, 'evaluator', None)
        found: dict[str, dict[str, float | None]] = {}
        for metric in getattr(evaluator, 'metrics', ()):
            if any(name in (metrics or {}) for name in getattr(metric, 'per_class_of', ())):
                prefix = getattr(metric, 'prefix', None)
                found |= {
                    f'{prefix}/{name}' if prefix else name: classes
                    for name, classes in metric.per_class.items()
                }
        if found:
            text = json.dumps(found, indent=1, ensure_ascii=False) + '\n'
            write_atomically(text.encode(), Path(runner.log_dir) / PER_CLASS)

    def _so_far(self) -> dict[str, float]:
        wall, processor = self._begin
        return dict(
            seconds=self.spent['seconds'] + perf_counter() - wall,
            cpu_seconds=self.spent['cpu_seconds'] + _processor_seconds() - processor,
        )


def _test_pipeline(cfg: Config) -> Any:
    loader = cfg.get('test_dataloader')
    plain = Config(loader).to_dict() if isinstance(loader, dict) else {}  # else built already
    return find_pipeline(plain.get('dataset'))


def _number(noted: Any) -> float:
    """Return a number of a checkpoint, 0 of what is none."""
    return noted if isinstance(noted, int | float) and isfinite(noted) else 0.0


def _accumulations(wrapper: OptimWrapper | OptimWrapperDict) -> list[int]:
    """Return after how many iterations each optimizer steps."""
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [one._accumulative_counts for one in wrappers]


def _processor_seconds() -> float:
    return sum(os.times()[:4])
