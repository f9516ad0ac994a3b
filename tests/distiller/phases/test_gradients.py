"""Whatever the number of phases: one forward of each member, and the gradients of backward passes
of their own.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.phased import THREE, named, quiet_distiller, record_steps, wrappers
from helpers.tiny import batch, objectives, segmentor
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmkd.engine.optimizers.bf16_optim_wrapper import Bf16OptimWrapper
from mmkd.engine.optimizers.phase_constructor import PhaseOptimWrapperDict

# ---------------------------------------------------------------- gradients


def by_hand(
    model: Any,
    data: dict,
    which: Callable[[Any, dict], Tensor],
    parameters: dict[str, Tensor],
    bfloat16: bool = False,
) -> dict[str, Tensor]:
    """Return the gradient of one loss by a forward and a plain backward of its own, on a copy."""
    twin = copy.deepcopy(model)
    with torch.autocast('cpu', torch.bfloat16, enabled=bfloat16):
        record, task = twin.observe(**twin.data_preprocessor(copy.deepcopy(data), True))
        loss = which(twin, dict(record=record, task=task))
    loss.backward()
    return {n: p.grad for n, p in twin.named_parameters() if n in parameters and p.grad is not None}


def loss_of(*names: str, task: bool = False) -> Callable[[Any, dict], Tensor]:
    def total(model: Any, seen: dict) -> Tensor:
        value = sum(v for o in names for v in model.objectives[o](seen['record']).values())
        return value + sum(v for k, v in seen['task'].items() if 'loss' in k) if task else value

    return total


def critic_of(name: str) -> Callable[[Any, dict], Tensor]:
    return lambda model, seen: next(
        iter(model.objectives[name].critic_loss(seen['record']).values())
    )


def assert_equal(
    got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6
) -> None:
    assert got.keys() == expected.keys()
    assert sum(float(v.abs().sum()) for v in expected.values()) > 0
    for name, value in expected.items():
        assert float((got[name] - value).abs().max()) <= tolerance * max(
            1.0, float(value.abs().max())
        ), name


EXPECTED = dict(
    one=[('student', loss_of('pixel', 'pair', task=True))],
    two=[
        ('student', loss_of('pixel', 'pair', 'holistic', task=True)),
        ('critic', critic_of('holistic')),
    ],
    three=[
        ('student', loss_of('pixel', 'holistic', task=True)),
        ('feature', loss_of('pair')),
        ('critic', critic_of('holistic')),
    ],
    reversed=[
        ('critic', critic_of('holistic')),
        ('feature', loss_of('pair')),
        ('student', loss_of('pixel', 'holistic', task=True)),
    ],
)
PHASES = dict(one=None, two=None, three=THREE, reversed=THREE[::-1])


@pytest.mark.parametrize('kind', ['one', 'two', 'three', 'reversed'])
def test_gradients_of_phases_equal_backward_passes_of_their_own(kind: str) -> None:
    model = quiet_distiller(
        PHASES[kind], **(dict(objectives=objectives()) if kind == 'one' else {})
    )
    order = [name for name, _ in EXPECTED[kind]]
    optim = wrappers(model, names=tuple(order))
    data, before = batch(2, 32), {n: p.detach().clone() for n, p in model.named_parameters()}
    expected = [
        (
            name,
            by_hand(model, data, loss, named(model, 'critics' if name == 'critic' else 'students')),
        )
        for name, loss in EXPECTED[kind]
    ]
    steps = record_steps(optim, model)
    model.train_step(copy.deepcopy(data), optim)
    assert [name for name, _ in steps] == order  # once each, in the listed order
    for (_, got), (_, want) in zip(steps, expected, strict=True):
        assert_equal(got, want)
    # all gradients come from the same parameter values; SGD of each then moves the shared weights
    # in turn
    for name, parameter in model.named_parameters():
        moved = sum(
            (want[name] for _, want in expected if name in want), torch.zeros_like(parameter)
        )
        torch.testing.assert_close(
            parameter.detach(), before[name] - 0.1 * moved, rtol=1e-5, atol=1e-6
        )
    assert all(p.grad is None for p in model.parameters())
    assert not model.phase_runner.buffers


@pytest.mark.parametrize('kind', ['one', 'two', 'three'])
def test_one_forward_of_every_member_an_iteration(kind: str) -> None:
    model = quiet_distiller(
        PHASES[kind], **(dict(objectives=objectives()) if kind == 'one' else {})
    )
    calls: list[tuple[str, str, bool]] = []
    for name, member in [*model.students.items(), *model.teachers.items()]:
        member.register_forward_pre_hook(
            lambda m, args, kwargs, name=name: calls.append(
                (name, kwargs['mode'], torch.is_grad_enabled())
            ),
            with_kwargs=True,
        )
    optim = wrappers(model, names=tuple(name for name, _ in EXPECTED[kind]))
    for _ in range(2):
        model.train_step(batch(2, 32), optim)
    assert calls == [('teacher', 'tensor', False), ('student', 'loss', True)] * 2


def test_a_critics_gradient_never_reaches_the_student_nor_the_reverse() -> None:
    model = quiet_distiller()
    optim = wrappers(model)
    steps = record_steps(optim, model)
    model.train_step(batch(2, 32), optim)
    (first, student), (second, critic) = steps
    assert (first, second) == ('student', 'critic')
    assert set(student) == set(
        named(model, 'students')
    )  # every weight of the student, no weight of the critic
    assert set(critic) == set(named(model, 'critics'))


def test_the_critics_optimizer_does_not_touch_the_student() -> None:
    """Whatever the critic's optimizer does, the student's first step is bit for bit the same; and
    the reverse.
    """

    def after(**lr: float) -> dict[str, Tensor]:
        model = quiet_distiller()
        optim = wrappers(model)
        for name, value in lr.items():
            optim[name].optimizer.param_groups[0]['lr'] = value
        model.train_step(batch(2, 32), optim)
        return {n: p.detach() for n, p in model.named_parameters()}

    def moved(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[bool]:
        return {
            '.critic.' in name for name, value in one.items() if not torch.equal(value, other[name])
        }

    first = after(student=0.1, critic=0.1)
    assert moved(after(student=0.1, critic=0.1), first) == set()
    assert moved(after(student=0.1, critic=5.0), first) == {True}
    assert moved(after(student=5.0, critic=0.1), first) == {False}


def test_the_phase_path_logs_what_mmengines_own_step_logs() -> None:
    """One optimizer, no critic: the same losses, the same total, the same weights as
    BaseModel.train_step.
    """
    cfg = dict(objectives=objectives())
    ours, theirs = quiet_distiller(**cfg), quiet_distiller(**cfg)
    data = batch(2, 32)
    optim = wrappers(ours, names=('student',))
    plain = OptimWrapper(torch.optim.SGD(theirs.parameters(), lr=0.1))
    for _ in range(2):
        phased, single = (
            ours.train_step(copy.deepcopy(data), optim),
            theirs.train_step(copy.deepcopy(data), plain),
        )
        assert phased.keys() == single.keys()
        for key, value in single.items():
            assert phased[key].item() == pytest.approx(value.item(), rel=1e-6)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_the_logged_total_is_every_loss_but_the_critics() -> None:
    model = quiet_distiller(THREE)
    logs = model.train_step(batch(2, 32), wrappers(model, names=('student', 'feature', 'critic')))
    parts = [float(v) for k, v in logs.items() if k.endswith('.loss') or '.loss_' in k]
    assert len(parts) == 5  # decode, auxiliary, pixel, pair, holistic
    assert 'holistic.critic_loss' in logs
    assert float(logs['loss']) == pytest.approx(sum(parts), rel=1e-6)
    assert not any(v.requires_grad for v in logs.values())


# ---------------------------------------------------------------- accumulation


def split(data: dict, parts: int) -> list[dict]:
    n = len(data['inputs']) // parts
    return [
        dict(
            inputs=data['inputs'][i * n : (i + 1) * n],
            data_samples=data['data_samples'][i * n : (i + 1) * n],
        )
        for i in range(parts)
    ]


@pytest.mark.parametrize('norm', ['BN', 'GN'])
def test_accumulation_equals_the_big_batch(norm: str) -> None:
    """Two optimizers on the same weights and a critic: one p.grad and one zero_grad would mix them
    up.
    """
    changes: dict = {}
    if norm == 'GN':
        groups = dict(type='GN', num_groups=2)
        model_cfg = segmentor(4, dropout=0.0, size=32)
        for part in (model_cfg['backbone'], model_cfg['decode_head'], model_cfg['auxiliary_head']):
            part['norm_cfg'] = groups
        changes = dict(student=dict(model=model_cfg))
    names = ('student', 'feature', 'critic')
    big, small = quiet_distiller(THREE, **changes), quiet_distiller(THREE, **changes)
    data = batch(4, 32)
    optim_big, optim_small = (
        wrappers(big, names=names),
        wrappers(small, names=names, accumulative_counts=2),
    )
    steps_big, steps_small = record_steps(optim_big, big), record_steps(optim_small, small)
    big.train_step(copy.deepcopy(data), optim_big)
    before = {n: p.detach().clone() for n, p in small.named_parameters()}
    first, second = split(data, 2)
    small.train_step(copy.deepcopy(first), optim_small)
    assert not steps_small
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in small.named_parameters())
    small.train_step(copy.deepcopy(second), optim_small)
    assert [n for n, _ in steps_small] == list(names) == [n for n, _ in steps_big]
    for (_, got), (_, want) in zip(steps_small, steps_big, strict=True):
        assert_equal(got, want, 2e-6)


def test_optimizers_may_accumulate_differently() -> None:
    """The critic steps every iteration while the student gathers two; each by its own count."""
    model = quiet_distiller()
    optim = wrappers(model)
    optim['student']._accumulative_counts = 2
    steps = record_steps(optim, model)
    for seed in range(4):
        model.train_step(batch(2, 32, seed=seed), optim)
    assert [n for n, _ in steps] == ['critic', 'student', 'critic', 'critic', 'student', 'critic']


def test_the_last_partial_accumulation_counts_in_full() -> None:
    """5 iterations by 2: the fifth steps alone, with the gradient of its own batch, undivided."""
    model = quiet_distiller()
    optim = wrappers(model, lr=0.0, accumulative_counts=2)
    optim.initialize_count_status(model, 0, 5)
    steps = record_steps(optim, model)
    for seed in range(5):
        model.train_step(batch(2, 32, seed=seed), optim)
    assert [n for n, _ in steps] == ['student', 'critic'] * 3
    of_student = loss_of('pixel', 'pair', 'holistic', task=True)
    third, fourth, fifth = (
        by_hand(model, batch(2, 32, seed=seed), of_student, named(model, 'students'))
        for seed in (2, 3, 4)
    )
    assert_equal(steps[2][1], {name: (third[name] + fourth[name]) / 2 for name in third}, 2e-6)
    assert_equal(steps[4][1], fifth)


def test_a_resumed_run_counts_on() -> None:
    model = quiet_distiller()
    optim = wrappers(model, accumulative_counts=2)
    optim.initialize_count_status(model, 4, 7)
    assert [w._inner_count for w in optim.values()] == [4, 4]
    steps = record_steps(optim, model)
    for _ in range(3):  # iterations 5, 6, 7
        model.train_step(batch(2, 32), optim)
    assert [n for n, _ in steps] == ['student', 'critic'] * 2


# ---------------------------------------------------------------- precision


def test_bfloat16_equals_autocast_by_hand() -> None:
    model = quiet_distiller()
    optim = wrappers(model, Bf16OptimWrapper)
    data = batch(2, 32)
    steps = record_steps(optim, model)
    of_student = loss_of('pixel', 'pair', 'holistic', task=True)
    expected = [
        by_hand(model, data, of_student, named(model, 'students'), bfloat16=True),
        by_hand(model, data, critic_of('holistic'), named(model, 'critics'), bfloat16=True),
    ]
    in_float32 = by_hand(model, data, of_student, named(model, 'students'))
    logs = model.train_step(copy.deepcopy(data), optim)
    for (_, got), want in zip(steps, expected, strict=True):
        assert_equal(got, want)
        assert all(g.dtype == torch.float32 for g in got.values())
    flat = lambda gradient: torch.cat([gradient[n].flatten() for n in sorted(gradient)])  # noqa: E731
    exact = flat(in_float32)
    assert (
        1e-4 < float((flat(steps[0][1]) - exact).norm() / exact.norm()) < 0.1
    )  # bfloat16 ran, and is near float32
    assert all(v.dtype == torch.float32 for k, v in logs.items() if 'loss' in k)


def test_mixed_precisions_are_refused_by_name() -> None:
    model = quiet_distiller()
    students, critics = (
        torch.optim.SGD(named(model, kind).values(), lr=0.1) for kind in ('students', 'critics')
    )
    optim = PhaseOptimWrapperDict(student=Bf16OptimWrapper(students), critic=OptimWrapper(critics))
    with pytest.raises(
        ValueError,
        match="one forward serves all phases.*'student': .'Bf16OptimWrapper'.*"
        "'critic': .'OptimWrapper'.*Mend: the same type and dtype for every",
    ):
        model.train_step(batch(2, 32), optim)


class Scaled(OptimWrapper):
    """mmengine's AmpOptimWrapper without its demand for a GPU: its scaler, unscaling and step, line
    by line.
    """

    def __init__(self, *args: Any, scale: float = 2.0**8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale)

    def step(self, **kwargs: Any) -> None:
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


@pytest.mark.parametrize('clip', [None, dict(max_norm=0.5)])
def test_loss_scaling_with_shared_weights_and_accumulation_changes_nothing(
    clip: dict | None,
) -> None:
    """Scales are powers of two, so scaling and unscaling round nothing; each optimizer has a scaler
    of its own.
    """
    names = ('student', 'feature', 'critic')
    plain, scaled = quiet_distiller(THREE), quiet_distiller(THREE)
    options = dict(accumulative_counts=2, **(dict(clip_grad=clip) if clip else {}))
    optim_plain = wrappers(plain, names=names, **options)
    optim_scaled = wrappers(scaled, Scaled, names=names, **options)
    optim_scaled['feature'].loss_scaler = torch.amp.GradScaler('cpu', init_scale=2.0**12)
    start = {n: p.detach().clone() for n, p in plain.named_parameters()}
    for seed in range(4):
        plain.train_step(batch(2, 32, seed=seed), optim_plain)
        scaled.train_step(batch(2, 32, seed=seed), optim_scaled)
    assert any(not torch.equal(p, start[n]) for n, p in plain.named_parameters())
    for (name, a), b in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_an_overflow_skips_that_optimizers_step_alone() -> None:
    model = quiet_distiller()
    optim = wrappers(model, Scaled)
    optim['student'].loss_scaler = torch.amp.GradScaler('cpu', init_scale=2.0**127)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.train_step(batch(2, 32), optim)
    assert all(torch.equal(p, before[n]) for n, p in named(model, 'students').items())
    assert any(not torch.equal(p, before[n]) for n, p in named(model, 'critics').items())
    assert optim['student'].loss_scaler.get_scale() == 2.0**126
    assert optim['critic'].loss_scaler.get_scale() == 2.0**8
