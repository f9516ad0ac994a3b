"""A schedule and an order of levels from outside mmkd: registered, trained by, resumed, checked."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from helpers.runs import run_config, train
from helpers.states import checkpoint, differences
from helpers.tiny import distiller, segmentor
from mmengine.logging import MessageHub

from mmkd.apis.launch import load_config
from mmkd.engine.hooks import ScheduleHook
from mmkd.engine.schedules import Progressive, Schedule, build_levels, build_schedule
from mmkd.registry import LEVELS, SCHEDULES

MODULE = '''
    from mmkd.engine.schedules import Schedule
    from mmkd.registry import SCHEDULES


    @SCHEDULES.register_module()
    class Wave(Schedule):
        """Up and down between 0 and ``height``."""

        def __init__(self, height: float, period: int, length: int, begin: int = 0) -> None:
            self.height, self.period, self.length, self.begin = height, period, length, begin

        def __call__(self, step: int) -> float:
            step = min(max(step - self.begin, 0), self.length)
            return self.height * (step % self.period) / self.period
'''
WAVE = dict(target='pixel.weight', type='Wave', height=2.0, period=4, length=8)


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What a test registers is gone after it."""
    kept = [(one, dict(one.module_dict)) for one in (SCHEDULES, LEVELS)]
    yield
    for registry, names in kept:
        registry._module_dict = names


def run(folder: Path, name: str, max_iters: int, resume: bool = False) -> Any:
    model = distiller(
        student=dict(model=segmentor(4, num_classes=3, size=32)),
        teacher=dict(model=segmentor(8, num_classes=3, size=32), allow_untrained=True),
        taps=dict(logits='decode_head.conv_seg'),
        objectives=dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits')),
    )
    cfg = run_config(folder, model, max_iters=max_iters, interval=3, val_interval=99, name=name)
    cfg.optim_wrapper.pop('critic')
    cfg.custom_hooks.append(dict(type='mmkd.ScheduleHook', schedules=[WAVE]))
    cfg.custom_imports = dict(imports=['users_own_wave'])
    cfg.dump(folder / f'{name}.py')
    return train(load_config(str(folder / f'{name}.py'), work_dir=cfg.work_dir), resume)


def test_a_class_of_a_users_module_trains_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'users_own_wave.py').write_text(dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    whole = run(tmp_path, 'whole', 6)
    seen = MessageHub.get_current_instance().log_scalars['train/pixel.weight'].data[0].tolist()
    assert seen == [0.0, 0.5, 1.0, 1.5, 0.0, 0.5]
    run(tmp_path, 'parts', 3)
    parts = run(tmp_path, 'parts', 6, resume=True)
    one, other = checkpoint(whole, 'iter_6.pth'), checkpoint(parts, 'iter_6.pth')
    for key in ('state_dict', 'optimizer'):
        assert differences(one[key], other[key]) == [], key


class Steps(Schedule):
    """``values[0]``, ``values[1]`` …, one a step; the class itself stands in the config."""

    def __init__(self, steps: list[float], length: int = 3, begin: int = 0) -> None:
        self.steps, self.length, self.begin = steps, length, begin

    def __call__(self, step: int) -> float:
        return self.steps[min(step, len(self.steps) - 1)]


def test_a_class_in_place_of_its_name() -> None:
    schedule = build_schedule(dict(type=Steps, steps=[1.0, 3.0]))
    assert [schedule(step) for step in range(3)] == [1.0, 3.0, 3.0]
    assert schedule.values() == dict(lowest=1.0, highest=3.0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        (dict(step=[1.0]), TypeError, "unknown key 'step'; did you mean 'steps'"),
        (dict(length=0), ValueError, "length of schedule of 'kd.weight' must be .* at least 1"),
        (dict(begin=0.5), ValueError, "begin of schedule of 'kd.weight' must be a whole number"),
        (
            dict(steps=[1.0, -1.0, 1.0]),
            ValueError,
            "'kd.weight' goes from -1.0 to 1.0; a weight is 0 or above.*Mend: lowest and highest",
        ),
        (dict(steps=[1.0, float('nan')]), ValueError, 'a weight is 0 or above'),
        (
            dict(target='kd.loss.tau', steps=[1.0, 0.0]),
            ValueError,
            "lowest of the schedule of 'kd.loss.tau' must be a finite number above 0, got 0.0",
        ),
        (dict(type=torch.nn.Linear), TypeError, r'must be a Schedule.*Mend: class Linear\(Schedu'),
    ],
)
def test_mistakes_in_a_class_of_ones_own(
    changes: dict, error: type[Exception], message: str
) -> None:
    config = dict(target='kd.weight', type=Steps, steps=[1.0]) | changes
    with pytest.raises(error, match=message):
        ScheduleHook([config])


@pytest.mark.bad_input
def test_arguments_that_are_missing() -> None:
    with pytest.raises(TypeError, match=r"also needs \['steps'\]. Mend: steps="):
        build_schedule(dict(type=Steps))


def test_an_order_of_levels_with_an_argument_of_its_own() -> None:
    @LEVELS.register_module(name='alternating')
    class Alternating(Progressive):
        def __init__(self, levels: list[list[str]], always: list[str]) -> None:
            super().__init__(levels)
            object.__setattr__(self, 'always', always)

        def choose(self, level: int) -> set[str]:
            return {*self.levels[level], *self.always}

    config = dict(type='alternating', levels=[['a'], ['b']], always=['task'], length=4)
    plan = build_levels(config)
    assert [sorted(plan.schedule.active(level)) for level in range(2)] == [
        ['a', 'task'],
        ['b', 'task'],
    ]
    assert plan.length == [4]
