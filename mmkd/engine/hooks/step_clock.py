"""StepClockHook: what an iteration of a training took, of the wall clock and of the processor."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.registry import HOOKS
from mmkd.utils.atomic import write_atomically

FILE = 'steps.json'


@HOOKS.register_module()
class StepClockHook(Hook):
    """Write ``<work_dir>/steps.json`` when the training ends: the median iteration in ms.

    An iteration lasts from the end of the one before it to its own end: with its batch, and on a
    GPU with what the step before left to it. One that follows a validation or a checkpoint is not
    timed. ``processor_ms`` is of this process, all threads together; workers of the data loader
    are not in it. A resumed run counts the iterations since; where it was at its end already, those
    before.

    Examples:
        >>> clock = StepClockHook()
        >>> clock.read = iter([(0.0, 0.0), (0.5, 1.0), (1.5, 2.0), (2.5, 5.0)]).__next__
        >>> for _ in range(4):
        ...     clock.after_train_iter(None, 0)
        >>> clock.found()
        {'iterations': 3, 'wall_ms': 1000.0, 'processor_ms': 1000.0}
    """

    priority = 'VERY_HIGH'  # before the hook that saves

    def __init__(self) -> None:
        self.read = lambda: (perf_counter(), process_time())
        self._last: tuple[float, float] | None = None
        self._steps: list[tuple[float, float]] = []  # seconds of each iteration, by both clocks
        self._before: dict[str, float | None] | None = None  # what was found up to the checkpoint

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Note how long the iteration took."""
        wall, processor = self.read()
        if self._last is not None:
            self._steps.append((wall - self._last[0], processor - self._last[1]))
        self._last = wall, processor

    def before_val(self, runner: Runner) -> None:
        """Leave out the iteration that a validation delays."""
        self._last = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Leave out the iteration that a checkpoint delays; note what was found so far."""
        self._last = None
        checkpoint['mmkd_steps'] = self.found()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Know what was found before, if the run is resumed."""
        if runner._resume:
            self._before = checkpoint.get('mmkd_steps')

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the medians; null where no iteration was timed."""
        found = self.found() if self._steps else self._before or self.found()
        text = json.dumps(found, indent=1) + '\n'
        write_atomically(text.encode(), Path(runner.work_dir) / FILE)

    def found(self) -> dict[str, float | None]:
        """Return how many iterations were timed, and the median of each clock in ms."""
        wall, processor = zip(*self._steps, strict=True) if self._steps else ((), ())
        return dict(
            iterations=len(self._steps),
            wall_ms=_median_ms(wall),
            processor_ms=_median_ms(processor),
        )


def _median_ms(seconds: Sequence[float]) -> float | None:
    return round(1000 * median(seconds), 3) if seconds else None
