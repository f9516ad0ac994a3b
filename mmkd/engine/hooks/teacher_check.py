"""TeacherCheckHook: how good the teachers are, before a GPU-day is spent on what they say."""

import copy
import math
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.distiller.members.kinds.follower import Follower
from mmkd.distiller.members.run import teachers_of
from mmkd.evaluation.part_of_a_set import count_what_ran
from mmkd.models.feature_model import FeatureModel
from mmkd.registry import HOOKS
from mmkd.structures.batch import Batch
from mmkd.tasks.base import registered, task_of
from mmkd.utils.checks import check_dict, nearest
from mmkd.utils.unwrap import unwrap


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Evaluate every teacher once before training on the validation set and log the result.

    The teacher sees the images as it will in training: re-normalised, in its own precision,
    uncompiled. Skipped on resume, without a validation set, and for models that have no teachers.
    Of a copy that follows the student there is nothing to say before training.

    Args:
        max_batches: Stop after so many batches; None takes the whole set.
        minimum: Stop training where a metric is below its value, for instance ``dict(mIoU=60)``.
        maximum: Stop training where a metric is above its value, for instance
            ``dict(abs_rel=0.2)``.

    Raises:
        ValueError: A teacher stays under ``minimum`` or above ``maximum``, or cannot be measured by
            them.
        KeyError: One of them names a metric that the evaluator does not report.
    """

    def __init__(
        self,
        max_batches: int | None = None,
        minimum: dict[str, float] | None = None,
        maximum: dict[str, float] | None = None,
    ) -> None:
        for name, limits in (('minimum', minimum), ('maximum', maximum)):
            check_dict(f'TeacherCheckHook: {name}', limits, f'{name}=dict(mIoU=60)')
            for key, limit in (limits or {}).items():
                if isinstance(limit, bool) or not isinstance(limit, int | float):
                    raise ValueError(
                        f'TeacherCheckHook: {name} of {key!r} must be a number, got {limit!r}'
                    )
        self.max_batches = max_batches
        self.minimum, self.maximum = minimum or {}, maximum or {}
        self.results: dict[str, dict[str, float]] = {}

    def before_train(self, runner: Runner) -> None:
        """Evaluate the teachers."""
        model = unwrap(runner.model)
        if not getattr(model, 'teachers', None) or runner.iter > 0:
            return
        if runner.val_loop is None:
            runner.logger.warning(
                'TeacherCheckHook: no validation set, so the quality of the teachers is unknown'
            )
            return
        classes = len(runner.val_loop.dataloader.dataset.metainfo.get('classes') or [])
        for run in [run for run in teachers_of(model.runs) if not isinstance(run, Follower)]:
            name = run.name
            if not run.live:
                runner.logger.info(f'teacher {name!r} is stored, its quality is not measured')
                continue
            other = _cannot_be_asked(run.model, classes)
            if other:
                unknown = f'teacher {name!r} {other}, so its quality is unknown'
                if self.minimum or self.maximum:
                    raise ValueError(f'{unknown}. Mend: leave out minimum and maximum')
                runner.logger.info(f'TeacherCheckHook: {unknown}')
                continue
            try:
                self.results[name] = self._evaluate(runner, model, name)
            except RuntimeError as error:
                if run.dtype == torch.float32 or 'scalar type' not in str(error):
                    raise
                # boxes are decoded with anchors in float32; its taps, in mode='tensor', are not
                # concerned
                unknown = (
                    f'teacher {name!r} cannot predict in {run.dtype} ({error}), so its quality is '
                    "unknown. Mend: test it by its own config, or precision='fp32'"
                )
                if self.minimum or self.maximum:
                    raise ValueError(unknown) from error
                runner.logger.warning(unknown)
                continue
            values = ', '.join(f'{key} {value:.4g}' for key, value in self.results[name].items())
            runner.logger.info(f'teacher {name!r} on the validation set: {values}')
            self._check(runner, name, self.results[name])

    @torch.no_grad()
    def _evaluate(self, runner: Runner, model: Any, name: str) -> dict[str, float]:
        loop = runner.val_loop
        evaluator: Evaluator = loop.evaluator
        if self.max_batches is not None:
            evaluator = copy.deepcopy(evaluator)  # the run's own counts the whole set
            count_what_ran(evaluator.metrics)
        evaluator.dataset_meta = loop.dataloader.dataset.metainfo
        run, seen = model.runs[name], 0
        for i, data in enumerate(loop.dataloader):
            if i == self.max_batches:
                break
            data = model.data_preprocessor(data, False)
            batch = Batch(data['inputs'], data['data_samples'])
            outputs = run.model(run.prepare(batch), run.samples(batch), mode='predict')
            evaluator.process(data_samples=outputs, data_batch=data)
            seen += len(outputs)
        # A loader fills up the last round of ranks with samples seen before: the evaluator drops
        # these by the size.
        size = min(len(loop.dataloader.dataset), seen * get_world_size())
        return {key: float(value) for key, value in evaluator.evaluate(size).items()}

    def _check(self, runner: Runner, name: str, metrics: dict[str, float]) -> None:
        classes = len(runner.val_loop.dataloader.dataset.metainfo.get('classes') or [])
        # one metric may be spoken of by a task and by its heirs
        said = dict.fromkeys(task.tell_poor(metrics, classes) for task in registered())
        poor = [
            f'teacher {name!r} {text}. Check its checkpoint, the order of its classes and its '
            'data_preprocessor'
            for text in said
            if text
        ]
        if not metrics and (self.minimum or self.maximum):
            raise ValueError('; '.join(poor))
        for text in poor:
            runner.logger.warning(text)
        if not metrics:
            return
        for limits, sign, what, wrong in (
            (self.minimum, 1, 'minimum', 'below'),
            (self.maximum, -1, 'maximum', 'above'),
        ):
            for key, limit in limits.items():
                if key not in metrics:
                    raise KeyError(
                        f'TeacherCheckHook: {what} names {key!r}, which the evaluator does not '
                        f'report{nearest(key, metrics)} (it reports {sorted(metrics)})'
                    )
                if not sign * metrics[key] >= sign * limit:  # NaN stops too
                    raise ValueError(
                        f'teacher {name!r} has {key} {metrics[key]:.4g} on the validation set, '
                        f'{wrong} the {what} {limit}. Mend: check its checkpoint, classes and '
                        'data_preprocessor'
                    )
        lost = sorted(key for key, value in metrics.items() if math.isnan(value))
        if lost:
            runner.logger.warning(
                f'teacher {name!r} has no number for {", ".join(lost)} (NaN). Check its checkpoint '
                'and the labels of the validation set'
            )


def _cannot_be_asked(model: Any, classes: int) -> str:
    """Return why a teacher cannot be judged by a set of so many classes, '' where it can be."""
    if isinstance(model, FeatureModel):
        return 'is a backbone without a head, which predicts nothing'
    known = task_of(model).num_classes
    if known is not None and classes and known != classes:
        return f'knows {known} classes and the validation set {classes}'
    return ''
