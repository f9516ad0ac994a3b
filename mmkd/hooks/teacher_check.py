"""TeacherCheckHook: how good the teachers are, before a GPU-day is spent on what they say."""
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmkd.batch import Batch
from mmkd.checks import nearest
from mmkd.registry import HOOKS


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Evaluate every teacher once before training on the validation set and log the result.

    The teacher sees the images as it will in training: re-normalised, in its own precision, uncompiled. Skipped on
    resume, without a validation set, and for models that have no teachers.

    Args:
        max_batches: Stop after so many batches; None takes the whole set.
        minimum: Stop training where a metric is below its value, for instance ``dict(mIoU=60)``.

    Raises:
        ValueError: A teacher stays under ``minimum``.
        KeyError: ``minimum`` names a metric that the evaluator does not report.
    """

    def __init__(self, max_batches: int | None = None, minimum: dict[str, float] | None = None) -> None:
        self.max_batches = max_batches
        self.minimum = minimum or {}
        self.results: dict[str, dict[str, float]] = {}

    def before_train(self, runner: Runner) -> None:
        """Evaluate the teachers."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not getattr(model, 'teachers', None) or runner.iter > 0:
            return
        if runner.val_loop is None:
            runner.logger.warning('TeacherCheckHook: no validation set, so the quality of the teachers is unknown')
            return
        for name in model.teachers:
            self.results[name] = self._evaluate(runner, model, name)
            values = ', '.join(f'{key} {value:.2f}' for key, value in self.results[name].items())
            runner.logger.info(f'teacher {name!r} on the validation set: {values}')
            self._check(runner, name, self.results[name])

    @torch.no_grad()
    def _evaluate(self, runner: Runner, model: Any, name: str) -> dict[str, float]:
        loop = runner.val_loop
        evaluator: Evaluator = loop.evaluator
        evaluator.dataset_meta = loop.dataloader.dataset.metainfo
        run, seen = model.teachers.runs[name], 0
        for i, data in enumerate(loop.dataloader):
            if i == self.max_batches:
                break
            data = model.data_preprocessor(data, False)
            batch = Batch(data['inputs'], data['data_samples'])
            outputs = run.model(run.prepare(batch), data['data_samples'], mode='predict')
            evaluator.process(data_samples=outputs, data_batch=data)
            seen += len(outputs)
        # A loader fills up the last round of ranks with samples seen before: the evaluator drops these by the size.
        size = min(len(loop.dataloader.dataset), seen * get_world_size())
        return {key: float(value) for key, value in evaluator.evaluate(size).items()}

    def _check(self, runner: Runner, name: str, metrics: dict[str, float]) -> None:
        for key, least in self.minimum.items():
            if key not in metrics:
                raise KeyError(f'TeacherCheckHook: minimum names {key!r}, which the evaluator does not report'
                               f'{nearest(key, metrics)} (it reports {sorted(metrics)})')
            if not metrics[key] >= least:  # NaN stops too
                raise ValueError(f'teacher {name!r} has {key} {metrics[key]:.2f} on the validation set, below the '
                                 f'minimum {least}. Mend: check its checkpoint, classes and data_preprocessor')
        classes = len(runner.val_loop.dataloader.dataset.metainfo.get('classes') or [])
        for key in ('mIoU', 'accuracy/top1'):
            if classes and metrics.get(key, 100.0) < 150.0 / classes:
                runner.logger.warning(f'teacher {name!r} is hardly better than chance ({key} {metrics[key]:.2f} of '
                                      f'{classes} classes). Check its checkpoint, the order of its classes and its '
                                      'data_preprocessor')
