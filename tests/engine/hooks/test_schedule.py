"""ScheduleHook: which values a run sees, and goes on with after resume."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.tiny_run import Line, make_runner
from mmengine.logging import MessageHub
from mmengine.model import ModuleDict
from torch import Tensor

from mmkd.distiller.objectives.objective import build_objective
from mmkd.engine.hooks import ScheduleHook
from mmkd.engine.schedules import build_schedule
from mmkd.engine.schedules.targets import Target
from mmkd.losses import AssignmentKLLoss, DirichletNLLLoss

ANNEAL = dict(target='end2.loss.temperature', type='anneal', begin=2, length=4)
FADE = dict(target='end2.weight', type='cosine', start=1.0, end=0.0, length=6)


class Distilled(Line):
    """``Line`` with an objective on (x·w, 0) under two fixed members; notes what each step sees."""

    def __init__(self) -> None:
        super().__init__()
        known = dict(student=['logits'], t1=['logits'], t2=['logits'])
        self.objectives = ModuleDict(
            dict(
                end2=build_objective(
                    'end2',
                    dict(
                        loss=dict(type='DirichletNLLLoss'),
                        reads=dict(student='student.logits', teachers='t*.logits'),
                    ),
                    known,
                )
            )
        )
        self.seen: list[tuple[float, float]] = []

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        losses = super().forward(inputs, data_samples, mode)
        if mode != 'loss':
            return losses
        objective = self.objectives['end2']
        self.seen.append((objective.weight, objective.loss.temperature))
        logits = torch.cat([self.weight * inputs, 0 * inputs], 1)
        members = dict(
            t1=dict(logits=logits.detach() + 1), t2=dict(logits=torch.zeros_like(logits))
        )
        loss = objective.loss(logits, torch.stack([m['logits'] for m in members.values()]))
        return {**losses, 'end2.loss': objective.weight * loss}


def run(
    folder: Path,
    schedules: list[dict],
    max_iters: int = 8,
    default: dict | None = None,
    **kwargs: Any,
) -> Any:
    runner = make_runner(
        folder,
        default or dict(type='mmkd.SafeCheckpointHook', by_epoch=False, interval=4),
        max_iters,
        model=Distilled(),
        custom_hooks=[
            dict(type='mmkd.ExactResumeHook'),
            dict(type='mmkd.ScheduleHook', schedules=schedules),
        ],
        **kwargs,
    )
    runner.train()
    return runner


def test_a_run_sees_the_values_of_its_schedules(tmp_path: Path) -> None:
    model = run(tmp_path, [ANNEAL, FADE]).model
    weights, temperatures = zip(*model.seen, strict=True)
    assert temperatures == (10.0, 10.0, 10.0, 7.75, 5.5, 3.25, 1.0, 1.0)
    assert weights == pytest.approx((1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873, 0, 0))
    history = MessageHub.get_current_instance().log_scalars
    for key, values in {
        'train/end2.temperature': temperatures,
        'train/end2.weight': weights,
    }.items():
        assert history[key].data[0].tolist() == pytest.approx(values)


def test_resume_in_the_middle_goes_on_with_the_same_values(tmp_path: Path) -> None:
    whole = run(tmp_path / 'a', [ANNEAL, FADE]).model
    resumed = run(
        tmp_path / 'b', [ANNEAL, FADE], resume=True, load_from=str(tmp_path / 'a' / 'iter_4.pth')
    ).model
    assert resumed.seen == whole.seen[4:]
    assert torch.equal(resumed.weight, whole.weight)
    other = run(tmp_path / 'c', [ANNEAL]).model
    assert not torch.equal(other.weight, whole.weight)  # the weight does act


@pytest.mark.parametrize('at', [2, 4, 6])
def test_resume_within_a_rise_and_within_a_fall(tmp_path: Path, at: int) -> None:
    """The weight is 0, 1/3, 2/3, 1, 1, 2/3, 1/3, 0: iterations 2 and 6 lie on the slopes."""
    points = [(0, 0.0), (3, 1.0), (4, 1.0), (7, 0.0)]
    ramp = dict(target='end2.weight', type='piecewise', points=points)
    save = dict(type='mmkd.SafeCheckpointHook', by_epoch=False, interval=2)
    whole = run(tmp_path / 'a', [ramp], default=save).model
    weights = [weight for weight, _ in whole.seen]
    assert weights == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3, 0])
    resumed = run(
        tmp_path / 'b',
        [ramp],
        default=save,
        resume=True,
        load_from=str(tmp_path / 'a' / f'iter_{at}.pth'),
    ).model
    assert resumed.seen == whole.seen[at:], 'bit for bit'
    assert torch.equal(resumed.weight, whole.weight)


def test_the_value_reaches_the_objective_and_its_statistics() -> None:
    """Of a bare Objective: its forward multiplies the weight, its running statistics take the
    temperature.
    """
    model = Distilled()
    objective = model.objectives['end2']
    hook = ScheduleHook([ANNEAL, FADE])
    hub = MessageHub.get_instance('schedule')
    logits, members = torch.randn(3, 2, requires_grad=True), torch.randn(2, 3, 2)
    record = dict(
        student=dict(logits=logits), t1=dict(logits=members[0]), t2=dict(logits=members[1])
    )
    runner: Any = SimpleNamespace(model=model, iter=0, max_iters=8, message_hub=hub)
    hook.before_train(runner)
    for runner.iter in (4, 0, 3):
        hook.before_train_iter(runner, 0)
        temperature, weight = (
            build_schedule({k: v for k, v in c.items() if k != 'target'})(runner.iter)
            for c in (ANNEAL, FADE)
        )
        expected = weight * DirichletNLLLoss(temperature)(logits, members)
        torch.testing.assert_close(objective.loss(logits, members) * objective.weight, expected)
        assert objective.loss.running().temperature == temperature
    assert record  # the members by name


def test_a_schedule_that_does_not_end_in_time_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    runner: Any = SimpleNamespace(
        model=Distilled(), iter=0, max_iters=5, logger=SimpleNamespace(warning=warnings.append)
    )
    ScheduleHook([ANNEAL]).before_train(runner)
    assert warnings == [
        "ScheduleHook: 'end2.loss.temperature' reaches 1.0 at iteration 6, but training ends at 5, "
        'with 5.5'
    ]
    runner.max_iters = 6
    ScheduleHook([ANNEAL, FADE]).before_train(runner)
    assert len(warnings) == 1


def test_a_wrapped_model_is_looked_into() -> None:
    model = Distilled()
    wrapped = torch.nn.parallel.DistributedDataParallel.__new__(
        torch.nn.parallel.DistributedDataParallel
    )
    torch.nn.Module.__init__(wrapped)
    wrapped.module = model
    runner: Any = SimpleNamespace(
        model=wrapped, iter=4, max_iters=8, message_hub=MessageHub.get_instance('wrapped')
    )
    hook = ScheduleHook([ANNEAL])
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    assert model.objectives['end2'].loss.temperature == 5.5


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('target', 'message'),
    [
        (
            'end.weight',
            r"'end.weight' names no objective; did you mean 'end2'\? \(objectives: \['end2'\]\)",
        ),
        (
            'end2.loss.temprature',
            r"DirichletNLLLoss has no number 'temprature'; did you mean 'temperature'\? \(its "
            r"numbers: \['smoothing', 'temperature'\]\)",
        ),
        ('end2.loss.training', "has no number 'training'"),
    ],
)
def test_targets_that_do_not_exist(target: str, message: str) -> None:
    runner: Any = SimpleNamespace(model=Distilled(), max_iters=9)
    with pytest.raises(KeyError) as error:
        ScheduleHook([FADE | dict(target=target, end=0.5)]).before_train(runner)
    assert error.match(message)


@pytest.mark.bad_input
def test_a_model_without_objectives_is_refused(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, custom_hooks=[dict(type='mmkd.ScheduleHook', schedules=[FADE])])
    with pytest.raises(
        TypeError, match=r'objectives of a Distiller, got Line. Mend: .*mmkd.Distiller'
    ):
        runner.train()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('schedules', 'error', 'message'),
    [
        ([], ValueError, 'ScheduleHook has no schedules'),
        ([FADE, FADE], ValueError, "'end2.weight' is scheduled twice"),
        (
            [FADE | dict(target='end2')],
            ValueError,
            "is '<objective>.weight' or '<objective>.loss.<attribute>', got 'end2'",
        ),
        ([FADE | dict(target='end2.loss')], ValueError, "got 'end2.loss'"),
        ([FADE | dict(target='end2.loss.critic.x')], ValueError, "got 'end2.loss.critic.x'"),
        ([FADE | dict(target='.weight')], ValueError, "got '.weight'"),
        ([{k: v for k, v in FADE.items() if k != 'target'}], ValueError, 'got None. Mend: target='),
        (
            [FADE | dict(target='end2.loss.loss_weight')],
            ValueError,
            "second weight of .*Mend: target='end2.weight'",
        ),
        (
            [FADE | dict(end=-1.0)],
            ValueError,
            "'end2.weight' goes from 1.0 to -1.0; a weight is 0 or above",
        ),
        ([FADE | dict(start=0.0)], ValueError, 'not 0 throughout'),
        (
            [ANNEAL | dict(end=0.0)],
            ValueError,
            "end of the schedule of 'end2.loss.temperature' must be .* above 0, got 0.0",
        ),
        (
            [FADE | dict(lenght=3)],
            TypeError,
            "schedule of 'end2.weight' got an unknown key 'lenght'; did you mean",
        ),
    ],
)
def test_bad_schedules(schedules: list[dict], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ScheduleHook(schedules)


@pytest.mark.bad_input
def test_numbers_that_are_read_once_are_refused() -> None:
    """tau of QUEST lies in its vocabulary: changing the loss's would change nothing."""
    loss = AssignmentKLLoss(2, 3, num_words=4, tau=1.0)
    objectives = dict(quest=SimpleNamespace(loss=loss))
    for name in ('tau', 'gamma'):
        with pytest.raises(
            ValueError,
            match=f"'quest.loss.{name}' is read when AssignmentKLLoss is built, so changing "
            'it would change nothing. Mend: .* or quest.weight',
        ):
            Target(f'quest.loss.{name}').owner(objectives)
