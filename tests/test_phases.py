"""Phases: how they are read, and that one forward gives every phase the gradient a forward of its own would give."""
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from tiny import batch, build, distiller, holistic, objectives, segmentor, sgd
from torch import Tensor, nn

from mmkd.optim import Bf16OptimWrapper
from mmkd.phase_optim import PhaseOptimWrapperDict
from mmkd.phases import Phase, PhaseRunner, read_phases

CRITIC = dict(pixel=False, holistic=True)
STUDENT_PHASE = dict(name='student', optimizer='student', task=True, objectives=['pixel', 'holistic'])
CRITIC_PHASE = dict(name='critic', optimizer='critic', critics=['holistic'])
LOGIT = dict(name='logit', optimizer='student', task=True, objectives=['pixel', 'holistic'])
FEATURE = dict(name='feature', optimizer='feature', objectives=['pair'])
THREE = [LOGIT, FEATURE, CRITIC_PHASE]


def change(phase: dict, **changes: Any) -> dict:
    return {k: v for k, v in {**phase, **changes}.items() if v is not None}


# ---------------------------------------------------------------- reading


def test_implicit_phases() -> None:
    assert read_phases(None, dict(pixel=False)) == [Phase('student', 'student', True, ('pixel',))]
    assert read_phases(None, CRITIC) == [Phase('student', 'student', True, ('pixel', 'holistic')),
                                         Phase('critic', 'critic', critics=('holistic',))]


def test_written_phases_equal_the_implicit_ones() -> None:
    assert read_phases([STUDENT_PHASE, CRITIC_PHASE], CRITIC) == read_phases(None, CRITIC)


def test_order_and_names_are_the_configs() -> None:
    phases = read_phases([CRITIC_PHASE, change(STUDENT_PHASE, name='net', optimizer='main')], CRITIC)
    assert [(p.name, p.optimizer) for p in phases] == [('critic', 'critic'), ('net', 'main')]


@pytest.mark.parametrize(('phases', 'error', 'message'), [
    ([STUDENT_PHASE, change(CRITIC_PHASE, objectives=['pixel'])], ValueError,
     "two phases name the objective 'pixel': its gradient would count twice. Mend: leave it in one phase"),
    ([STUDENT_PHASE, CRITIC_PHASE, change(CRITIC_PHASE, name='c2', optimizer='c2')], ValueError,
     "two phases name the critic of 'holistic': its gradient would count twice"),
    ([STUDENT_PHASE, change(CRITIC_PHASE, name='student')], ValueError, "two phases have the name 'student'"),
    ([STUDENT_PHASE, change(CRITIC_PHASE, optimizer='student')], ValueError,
     "two phases have the optimizer 'student': give each phase its own, or join them"),
    ([change(STUDENT_PHASE, objectives=['pixle']), CRITIC_PHASE], KeyError,
     r"phase 'student' names the objective 'pixle', which is not there; did you mean 'pixel'\? "
     r"\(objectives: \['pixel', 'holistic'\]\)"),
    ([STUDENT_PHASE, change(CRITIC_PHASE, critics=['holistik'])], KeyError,
     "names the objective 'holistik'.*did you mean 'holistic'"),
    ([STUDENT_PHASE, change(CRITIC_PHASE, critics=['pixel'])], ValueError,
     "phase 'critic': objective 'pixel' has no critic to train"),
    ([change(STUDENT_PHASE, objectives=['holistic']), CRITIC_PHASE], ValueError,
     "no phase names the objective 'pixel', so it would contribute nothing. Mend: add it"),
    ([STUDENT_PHASE], ValueError,
     r"no phase trains the critic of objective 'holistic'. Mend: dict\(name='critic', optimizer='critic', "
     r"critics=\['holistic'\]\)"),
    ([change(STUDENT_PHASE, task=None), CRITIC_PHASE], ValueError,
     r'exactly one phase takes the task losses \(task=True\), got \[\]'),
    ([STUDENT_PHASE, change(CRITIC_PHASE, task=True)], ValueError, r"got \['student', 'critic'\]"),
    ([STUDENT_PHASE, change(CRITIC_PHASE, critic='holistic')], TypeError,
     r"phase 'critic' got an unknown key 'critic'; did you mean 'critics'\?"),
    ([STUDENT_PHASE, CRITIC_PHASE, dict(name='idle', optimizer='idle')], ValueError,
     r"phase 'idle' has nothing to do. Mend: task=True, objectives=\[…\] or critics=\[…\]"),
    ([change(STUDENT_PHASE, optimizer=None), CRITIC_PHASE], ValueError,
     r"phase 'student' needs name= and optimizer=, got \['name', 'objectives', 'task'\]"),
    ([change(STUDENT_PHASE, objectives='pixel'), CRITIC_PHASE], TypeError,
     r"phase 'student': objectives must be a list of names, got 'pixel'. Mend: objectives=\['pixel'\]"),
    ([], ValueError, r'phases is empty. Mend: phases=None'),
])
def test_bad_phases(phases: list[dict], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_phases(phases, CRITIC)


def test_the_distiller_reads_its_phases() -> None:
    with pytest.raises(KeyError, match="names the objective 'piksel'.*did you mean 'pixel'"):
        build(distiller(phases=[dict(name='s', optimizer='student', task=True, objectives=['piksel', 'pair'])]))


# ---------------------------------------------------------------- gradients


def tiny(phases: list[dict] | None = None, **changes: Any) -> Any:
    """Return a Distiller without random numbers: no dropout, norms frozen, hinge critic on 4×4 logits."""
    terms = objectives(holistic=holistic(mode='hinge'))
    cfg = distiller(student=dict(model=segmentor(4, dropout=0., size=32)),
                    teacher=dict(model=segmentor(8, dropout=0., size=32), allow_untrained=True),
                    objectives=terms, phases=phases) | changes
    torch.manual_seed(3)
    model = build(cfg)
    for name, module in model.named_modules():
        # spectral norm moves its estimate at every call of the critic in train mode
        if isinstance(module, nn.BatchNorm2d) or name.endswith('.critic'):
            module.eval()
    return model


def named(model: Any, *kinds: str) -> dict[str, Tensor]:
    """Return the parameters of students and connectors ('students'), or of critics."""
    return {n: p for n, p in model.named_parameters() if ('.critic.' in n) == ('critics' in kinds)}


def wrappers(model: Any, kind: type = OptimWrapper, lr: float = 0.1, names: tuple[str, ...] = ('student', 'critic'),
             **kwargs: Any) -> PhaseOptimWrapperDict:
    """Return SGD wrappers by name; every optimizer but 'critic' holds the students."""
    held = {name: named(model, 'critics' if name == 'critic' else 'students').values() for name in names}
    return PhaseOptimWrapperDict(**{name: kind(optimizer=torch.optim.SGD(held[name], lr=lr), **copy.deepcopy(kwargs))
                                    for name in names})


def record_steps(optim: OptimWrapperDict, model: Any) -> list[tuple[str, dict[str, Tensor]]]:
    """Return a list that grows by (optimizer, name -> gradient) at every step."""
    names, steps = {id(p): n for n, p in model.named_parameters()}, []
    for key, wrapper in optim.items():
        def note(optimizer: Any, args: Any, kwargs: Any, key: str = key) -> None:
            held = [p for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
            steps.append((key, {names[id(p)]: p.grad.clone() for p in held}))
        wrapper.optimizer.register_step_pre_hook(note)
    return steps


def by_hand(model: Any, data: dict, which: Callable[[Any, dict], Tensor], parameters: dict[str, Tensor],
            bfloat16: bool = False) -> dict[str, Tensor]:
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
    return lambda model, seen: next(iter(model.objectives[name].critic_loss(seen['record']).values()))


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert got.keys() == expected.keys()
    assert sum(float(v.abs().sum()) for v in expected.values()) > 0
    for name, value in expected.items():
        assert float((got[name] - value).abs().max()) <= tolerance * max(1., float(value.abs().max())), name


EXPECTED = dict(
    one=[('student', loss_of('pixel', 'pair', task=True))],
    two=[('student', loss_of('pixel', 'pair', 'holistic', task=True)), ('critic', critic_of('holistic'))],
    three=[('student', loss_of('pixel', 'holistic', task=True)), ('feature', loss_of('pair')),
           ('critic', critic_of('holistic'))],
    reversed=[('critic', critic_of('holistic')), ('feature', loss_of('pair')),
              ('student', loss_of('pixel', 'holistic', task=True))])
PHASES = dict(one=None, two=None, three=THREE, reversed=THREE[::-1])


@pytest.mark.parametrize('kind', ['one', 'two', 'three', 'reversed'])
def test_gradients_of_phases_equal_backward_passes_of_their_own(kind: str) -> None:
    model = tiny(PHASES[kind], **(dict(objectives=objectives()) if kind == 'one' else {}))
    order = [name for name, _ in EXPECTED[kind]]
    optim = wrappers(model, names=tuple(order))
    data, before = batch(2, 32), {n: p.detach().clone() for n, p in model.named_parameters()}
    expected = [(name, by_hand(model, data, loss, named(model, 'critics' if name == 'critic' else 'students')))
                for name, loss in EXPECTED[kind]]
    steps = record_steps(optim, model)
    model.train_step(copy.deepcopy(data), optim)
    assert [name for name, _ in steps] == order  # once each, in the listed order
    for (_, got), (_, want) in zip(steps, expected, strict=True):
        assert_equal(got, want)
    # all gradients come from the same parameter values; SGD of each then moves the shared weights in turn
    for name, parameter in model.named_parameters():
        moved = sum((want[name] for _, want in expected if name in want), torch.zeros_like(parameter))
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * moved, rtol=1e-5, atol=1e-6)
    assert all(p.grad is None for p in model.parameters())
    assert not model.phase_runner.buffers


@pytest.mark.parametrize('kind', ['one', 'two', 'three'])
def test_one_forward_of_every_member_an_iteration(kind: str) -> None:
    model = tiny(PHASES[kind], **(dict(objectives=objectives()) if kind == 'one' else {}))
    calls: list[tuple[str, str, bool]] = []
    for name, member in [*model.students.items(), *model.teachers.items()]:
        member.register_forward_pre_hook(
            lambda m, args, kwargs, name=name: calls.append((name, kwargs['mode'], torch.is_grad_enabled())),
            with_kwargs=True)
    optim = wrappers(model, names=tuple(name for name, _ in EXPECTED[kind]))
    for _ in range(2):
        model.train_step(batch(2, 32), optim)
    assert calls == [('teacher', 'tensor', False), ('student', 'loss', True)] * 2


def test_a_critics_gradient_never_reaches_the_student_nor_the_reverse() -> None:
    model = tiny()
    optim = wrappers(model)
    steps = record_steps(optim, model)
    model.train_step(batch(2, 32), optim)
    (first, student), (second, critic) = steps
    assert (first, second) == ('student', 'critic')
    assert set(student) == set(named(model, 'students'))  # every weight of the student, no weight of the critic
    assert set(critic) == set(named(model, 'critics'))


def test_the_critics_optimizer_does_not_touch_the_student() -> None:
    """Whatever the critic's optimizer does, the student's first step is bit for bit the same; and the reverse."""
    def after(**lr: float) -> dict[str, Tensor]:
        model = tiny()
        optim = wrappers(model)
        for name, value in lr.items():
            optim[name].optimizer.param_groups[0]['lr'] = value
        model.train_step(batch(2, 32), optim)
        return {n: p.detach() for n, p in model.named_parameters()}

    def moved(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[bool]:
        return {'.critic.' in name for name, value in one.items() if not torch.equal(value, other[name])}

    first = after(student=0.1, critic=0.1)
    assert moved(after(student=0.1, critic=0.1), first) == set()
    assert moved(after(student=0.1, critic=5.), first) == {True}
    assert moved(after(student=5., critic=0.1), first) == {False}


def test_the_phase_path_logs_what_mmengines_own_step_logs() -> None:
    """One optimizer, no critic: the same losses, the same total, the same weights as BaseModel.train_step."""
    cfg = dict(objectives=objectives())
    ours, theirs = tiny(**cfg), tiny(**cfg)
    data = batch(2, 32)
    optim = wrappers(ours, names=('student',))
    plain = OptimWrapper(torch.optim.SGD(theirs.parameters(), lr=0.1))
    for _ in range(2):
        phased, single = ours.train_step(copy.deepcopy(data), optim), theirs.train_step(copy.deepcopy(data), plain)
        assert phased.keys() == single.keys()
        for key, value in single.items():
            assert phased[key].item() == pytest.approx(value.item(), rel=1e-6)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_the_logged_total_is_every_loss_but_the_critics() -> None:
    model = tiny(THREE)
    logs = model.train_step(batch(2, 32), wrappers(model, names=('student', 'feature', 'critic')))
    parts = [float(v) for k, v in logs.items() if k.endswith('.loss') or '.loss_' in k]
    assert len(parts) == 5  # decode, auxiliary, pixel, pair, holistic
    assert 'holistic.critic_loss' in logs
    assert float(logs['loss']) == pytest.approx(sum(parts), rel=1e-6)
    assert not any(v.requires_grad for v in logs.values())


# ---------------------------------------------------------------- accumulation


def split(data: dict, parts: int) -> list[dict]:
    n = len(data['inputs']) // parts
    return [dict(inputs=data['inputs'][i * n:(i + 1) * n], data_samples=data['data_samples'][i * n:(i + 1) * n])
            for i in range(parts)]


@pytest.mark.parametrize('norm', ['BN', 'GN'])
def test_accumulation_equals_the_big_batch(norm: str) -> None:
    """Two optimizers on the same weights and a critic: one p.grad and one zero_grad would mix them up."""
    changes: dict = {}
    if norm == 'GN':
        groups = dict(type='GN', num_groups=2)
        model_cfg = segmentor(4, dropout=0., size=32)
        for part in (model_cfg['backbone'], model_cfg['decode_head'], model_cfg['auxiliary_head']):
            part['norm_cfg'] = groups
        changes = dict(student=dict(model=model_cfg))
    names = ('student', 'feature', 'critic')
    big, small = tiny(THREE, **changes), tiny(THREE, **changes)
    data = batch(4, 32)
    optim_big, optim_small = wrappers(big, names=names), wrappers(small, names=names, accumulative_counts=2)
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
    model = tiny()
    optim = wrappers(model)
    optim['student']._accumulative_counts = 2
    steps = record_steps(optim, model)
    for seed in range(4):
        model.train_step(batch(2, 32, seed=seed), optim)
    assert [n for n, _ in steps] == ['critic', 'student', 'critic', 'critic', 'student', 'critic']


def test_the_last_partial_accumulation_counts_in_full() -> None:
    """5 iterations by 2: the fifth steps alone, with the gradient of its own batch, undivided."""
    model = tiny()
    optim = wrappers(model, lr=0., accumulative_counts=2)
    optim.initialize_count_status(model, 0, 5)
    steps = record_steps(optim, model)
    for seed in range(5):
        model.train_step(batch(2, 32, seed=seed), optim)
    assert [n for n, _ in steps] == ['student', 'critic'] * 3
    of_student = loss_of('pixel', 'pair', 'holistic', task=True)
    third, fourth, fifth = (by_hand(model, batch(2, 32, seed=seed), of_student, named(model, 'students'))
                            for seed in (2, 3, 4))
    assert_equal(steps[2][1], {name: (third[name] + fourth[name]) / 2 for name in third}, 2e-6)
    assert_equal(steps[4][1], fifth)


def test_a_resumed_run_counts_on() -> None:
    model = tiny()
    optim = wrappers(model, accumulative_counts=2)
    optim.initialize_count_status(model, 4, 7)
    assert [w._inner_count for w in optim.values()] == [4, 4]
    steps = record_steps(optim, model)
    for _ in range(3):  # iterations 5, 6, 7
        model.train_step(batch(2, 32), optim)
    assert [n for n, _ in steps] == ['student', 'critic'] * 2


# ---------------------------------------------------------------- precision


def test_bfloat16_equals_autocast_by_hand() -> None:
    model = tiny()
    optim = wrappers(model, Bf16OptimWrapper)
    data = batch(2, 32)
    steps = record_steps(optim, model)
    of_student = loss_of('pixel', 'pair', 'holistic', task=True)
    expected = [by_hand(model, data, of_student, named(model, 'students'), bfloat16=True),
                by_hand(model, data, critic_of('holistic'), named(model, 'critics'), bfloat16=True)]
    in_float32 = by_hand(model, data, of_student, named(model, 'students'))
    logs = model.train_step(copy.deepcopy(data), optim)
    for (_, got), want in zip(steps, expected, strict=True):
        assert_equal(got, want)
        assert all(g.dtype == torch.float32 for g in got.values())
    flat = lambda gradient: torch.cat([gradient[n].flatten() for n in sorted(gradient)])  # noqa: E731
    exact = flat(in_float32)
    assert 1e-4 < float((flat(steps[0][1]) - exact).norm() / exact.norm()) < 0.1  # bfloat16 ran, and is near float32
    assert all(v.dtype == torch.float32 for k, v in logs.items() if 'loss' in k)


def test_mixed_precisions_are_refused_by_name() -> None:
    model = tiny()
    students, critics = (torch.optim.SGD(named(model, kind).values(), lr=0.1) for kind in ('students', 'critics'))
    optim = PhaseOptimWrapperDict(student=Bf16OptimWrapper(students), critic=OptimWrapper(critics))
    with pytest.raises(ValueError, match="one forward serves all phases.*'student': .'Bf16OptimWrapper'.*"
                                         "'critic': .'OptimWrapper'.*Mend: the same type and dtype for every"):
        model.train_step(batch(2, 32), optim)


class Scaled(OptimWrapper):
    """mmengine's AmpOptimWrapper without its demand for a GPU: its scaler, unscaling and step, line by line."""

    def __init__(self, *args: Any, scale: float = 2.**8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale)

    def step(self, **kwargs: Any) -> None:
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


@pytest.mark.parametrize('clip', [None, dict(max_norm=0.5)])
def test_loss_scaling_with_shared_weights_and_accumulation_changes_nothing(clip: dict | None) -> None:
    """Scales are powers of two, so scaling and unscaling round nothing; each optimizer has a scaler of its own."""
    names = ('student', 'feature', 'critic')
    plain, scaled = tiny(THREE), tiny(THREE)
    options = dict(accumulative_counts=2, **(dict(clip_grad=clip) if clip else {}))
    optim_plain = wrappers(plain, names=names, **options)
    optim_scaled = wrappers(scaled, Scaled, names=names, **options)
    optim_scaled['feature'].loss_scaler = torch.amp.GradScaler('cpu', init_scale=2.**12)
    start = {n: p.detach().clone() for n, p in plain.named_parameters()}
    for seed in range(4):
        plain.train_step(batch(2, 32, seed=seed), optim_plain)
        scaled.train_step(batch(2, 32, seed=seed), optim_scaled)
    assert any(not torch.equal(p, start[n]) for n, p in plain.named_parameters())
    for (name, a), b in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_an_overflow_skips_that_optimizers_step_alone() -> None:
    model = tiny()
    optim = wrappers(model, Scaled)
    optim['student'].loss_scaler = torch.amp.GradScaler('cpu', init_scale=2.**127)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.train_step(batch(2, 32), optim)
    assert all(torch.equal(p, before[n]) for n, p in named(model, 'students').items())
    assert any(not torch.equal(p, before[n]) for n, p in named(model, 'critics').items())
    assert optim['student'].loss_scaler.get_scale() == 2.**126
    assert optim['critic'].loss_scaler.get_scale() == 2.**8


# ---------------------------------------------------------------- the runner of phases, on a model that is seen through


class Pair(nn.Module):
    """loss a·Σw + b·v·w0: gradients by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1., 2.]))
        self.v = nn.Parameter(torch.tensor([3., 4.]))
        self.unused = nn.Parameter(torch.tensor([5.]))


def toy(clip: float | None = None, count: int = 1) -> tuple[Pair, PhaseRunner, PhaseOptimWrapperDict]:
    net = Pair()
    phases = [Phase('a', 'x', True), Phase('b', 'y', objectives=('o',))]
    make = lambda params: OptimWrapper(torch.optim.SGD(params, lr=1.), accumulative_counts=count,  # noqa: E731
                                       **(dict(clip_grad=dict(max_norm=clip)) if clip else {}))
    return net, PhaseRunner(phases), PhaseOptimWrapperDict(x=make([net.w, net.unused]), y=make([net.w, net.v]))


def test_two_optimizers_on_one_weight_by_hand() -> None:
    """x: d/dw 3·Σw = (3, 3). y: d/dw w·v = v, d/dv = w, at the old w although x has stepped before."""
    net, runner, optim = toy()
    runner.take_gradients(runner.phases[0], 3 * net.w.sum(), dict(optim.items()))
    runner.take_gradients(runner.phases[1], (net.w * net.v).sum(), dict(optim.items()))
    runner.step(dict(optim.items()))
    assert net.w.tolist() == [1 - 3 - 3, 2 - 3 - 4]
    assert net.v.tolist() == [3 - 1, 4 - 2]
    assert net.unused.tolist() == [5.]
    assert net.w.grad is None


def test_clipping_a_summed_parameter_and_an_added_pair() -> None:
    """Clipping writes in place; autograd.grad gives a view of one number for Σw, and one tensor for both of w + v."""
    net, runner, optim = toy(clip=1.)
    runner.take_gradients(runner.phases[0], 3 * net.w.sum(), dict(optim.items()))
    runner.take_gradients(runner.phases[1], ((net.w + net.v) * torch.tensor([3., 4.])).sum(), dict(optim.items()))
    runner.step(dict(optim.items()))
    # x: (3, 3) clipped to (1, 1)/√2. y: w and v each (3, 4), together of norm √50
    expected = torch.tensor([1., 2.]) - 0.5**0.5 - torch.tensor([3., 4.]) / 50**0.5
    torch.testing.assert_close(net.w.detach(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(net.v.detach(), torch.tensor([3., 4.]) * (1 - 1 / 50**0.5), rtol=1e-5, atol=1e-5)


def test_accumulation_on_shared_weights_by_hand() -> None:
    """mmengine's update_params would leave one optimizer's half gradient in the other's step."""
    net, runner, optim = toy(count=2)
    for factor in (1000., 2.):
        runner.take_gradients(runner.phases[0], factor * net.w.sum(), dict(optim.items()))
        runner.take_gradients(runner.phases[1], net.v.sum(), dict(optim.items()))
        runner.step(dict(optim.items()))
    assert net.w.tolist() == [1 - 501, 2 - 501]
    assert net.v.tolist() == [2., 3.]


def test_a_phase_that_trains_nothing_of_its_optimizer() -> None:
    net, runner, optim = toy()
    with pytest.raises(ValueError, match="phase 'a': no parameter of its optimizer 'x' has a part.*Mend: params='stud"):
        runner.take_gradients(runner.phases[0], net.v.sum(), dict(optim.items()))
    with pytest.raises(ValueError, match="phase 'b': its losses carry no gradient, so it would train nothing"):
        runner.take_gradients(runner.phases[1], net.v.detach().sum(), dict(optim.items()))


def test_optimizers_and_phases_must_match() -> None:
    net, runner, optim = toy()
    with pytest.raises(KeyError, match=r"phase 'b' needs the optimizer 'y'.*optim_wrapper has \['x', 'yy'\]"):
        runner.match(PhaseOptimWrapperDict(x=optim['x'], yy=optim['y']))
    with pytest.raises(ValueError, match=r"the optimizers \['z'\] serve no phase. Mend: remove them, or name them"):
        runner.match(PhaseOptimWrapperDict(x=optim['x'], y=optim['y'], z=optim['y']))
    with pytest.raises(ValueError, match=r"the phases \['a', 'b'\] need the optimizers \['x', 'y'\], but there is one"):
        runner.match(optim['x'])


def test_a_critic_under_one_optimizer_is_refused() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="objective 'holistic' has a critic, but there is one optimizer and nothing "
                                         "would train it. Mend: optim_wrapper=dict.constructor='mmkd.PhaseOptim"):
        model.train_step(batch(2, 32), sgd(model))


def test_reentrant_checkpointing_is_refused_by_name() -> None:
    """A tap inside a checkpointed block carries no gradient; beside it, autograd.grad cannot pass the block."""
    student = segmentor(4, dropout=0., size=32)
    student['backbone']['with_cp'] = True
    model = tiny(student=dict(model=student))
    with pytest.raises(RuntimeError, match='reentrant activation checkpointing .with_cp=True.*Mend: with_cp=False'):
        model.train_step(batch(2, 32), wrappers(model))
