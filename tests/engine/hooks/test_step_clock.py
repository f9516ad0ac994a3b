"""StepClockHook: what an iteration takes, without what validates or saves between two of them."""

import json
from pathlib import Path
from typing import Any

from helpers.tiny_run import Script, make_runner

from mmkd.engine.hooks.step_clock import StepClockHook


class Timed(StepClockHook):
    """Its clocks go on by 1 and 2 s a reading; a validation takes 100 s, a checkpoint 1000 s."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.read = 0.0, self.tick

    def tick(self) -> tuple[float, float]:
        self.now += 1.0
        return self.now, 2 * self.now

    def before_val(self, runner: Any) -> None:
        super().before_val(runner)
        self.now += 100

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        super().before_save_checkpoint(runner, checkpoint)
        self.now += 1000


def steps_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / 'steps.json').read_text())


def test_iterations_that_a_validation_or_a_checkpoint_delays_are_left_out(tmp_path: Path) -> None:
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=3)
    make_runner(
        tmp_path,
        checkpoint,
        max_iters=12,
        val_interval=4,
        metric=Script([40.0]),
        custom_hooks=[Timed()],
    ).train()
    # 12 iterations end; of the 11 steps between them those after 3, 6, 9 and after 4, 8 are delayed
    assert steps_of(tmp_path) == dict(iterations=6, wall_ms=1000.0, processor_ms=2000.0)


def test_a_real_run_takes_time(tmp_path: Path) -> None:
    make_runner(tmp_path, max_iters=4, custom_hooks=[dict(type='mmkd.StepClockHook')]).train()
    found = steps_of(tmp_path)
    assert found['iterations'] == 3
    assert found['wall_ms'] > 0
    assert found['processor_ms'] > 0


def test_a_run_that_is_resumed_at_its_end_has_the_steps_from_before(tmp_path: Path) -> None:
    """As one that was killed behind its last checkpoint; one with steps of its own has those."""

    def run(max_iters: int, resume: bool = False) -> dict[str, Any]:
        checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=4)
        made = make_runner(tmp_path, checkpoint, max_iters=max_iters, custom_hooks=[Timed()])
        made._resume, made._load_from = resume, str(tmp_path / 'iter_4.pth') if resume else None
        made.train()
        return steps_of(tmp_path)

    whole = run(4)
    assert whole == dict(iterations=3, wall_ms=1000.0, processor_ms=2000.0)
    (tmp_path / 'steps.json').unlink()
    assert run(4, resume=True) == whole
    assert run(7, resume=True)['iterations'] == 2


def test_a_run_of_one_iteration_has_no_step(tmp_path: Path) -> None:
    make_runner(tmp_path, max_iters=1, custom_hooks=[dict(type='mmkd.StepClockHook')]).train()
    assert steps_of(tmp_path) == dict(iterations=0, wall_ms=None, processor_ms=None)
