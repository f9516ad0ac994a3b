"""Teachers that are made of other members: copies that follow a student, and combinations."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import two_ranks_kinds
from helpers.processes import ranks
from helpers.runs import run_config, train
from helpers.states import checkpoint, differences
from helpers.tiny import batch, build, distiller, segmentor, sgd
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn

from mmkd.apis import prepare
from mmkd.apis.benchmark.pair import Options, Pair
from mmkd.apis.doctor import diagnose
from mmkd.apis.launch import load_config
from mmkd.distiller.assembly import Parts, Settings, assemble
from mmkd.distiller.export import export_student
from mmkd.distiller.members.kinds import EMA, Combine, Follow, Gate, Mean, MinCE, Past
from mmkd.distiller.members.kinds.follow import take_all
from mmkd.engine.hooks import ScheduleHook
from mmkd.registry import KINDS

EMA_OF_STUDENT = dict(kind='ema', of='student', momentum=0.9)
CE = dict(loss=dict(type='NormalizedKLLoss'))  # any loss of labels


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    kept = dict(KINDS.module_dict)
    yield
    KINDS._module_dict = kept


def net(width: int = 2, **options: Any) -> dict:
    return segmentor(width, num_classes=3, size=32, auxiliary=False, **options)


def reads(*names: str, student: str = 'student') -> dict[str, dict]:
    """Return an objective on the logits of each teacher."""
    return {
        f'{student}_{name}': dict(
            loss=dict(type='PixelWiseKLLoss'),
            reads=dict(student=f'{student}.logits', teacher=f'{name}.logits'),
        )
        for name in names
    }


def config(teachers: dict, objectives: dict | None = None, **options: Any) -> dict:
    return (
        distiller(
            teacher=None,
            teachers=teachers,
            taps=dict(logits='decode_head.conv_seg'),
            objectives=objectives or reads(*teachers),
        )
        | dict(student=dict(model=net()))
        | options
    )


def big(width: int = 3) -> dict:
    return dict(model=net(width), allow_untrained=True)


def steps(model: Any, number: int, first: int = 0, **options: Any) -> Iterator[dict]:
    """Train step by step; yield what each returned."""
    wrapper = options.pop('wrapper', None) or sgd(model, lr=0.1, **options)
    for step in range(first, first + number):
        yield model.train_step(batch(2, 32, 3, seed=step), wrapper)


def parameters(model: nn.Module) -> list[Tensor]:
    return [x.detach().double().clone() for x in model.parameters()]


# ---------------------------------------------------------------------- ema


def test_ema_is_its_closed_form_after_n_steps() -> None:
    """θ'_n = mⁿ θ_0 + (1 − m) Σ_k m^(n−k) θ_k."""
    model = build(config(dict(ema=EMA_OF_STUDENT)))
    history = [parameters(model.student)]
    for _ in steps(model, 5):
        history.append(parameters(model.student))
    n, m = 5, 0.9
    for index, found in enumerate(parameters(model.runs['ema'].model)):
        wanted = m**n * history[0][index]
        for k in range(1, n + 1):
            wanted = wanted + (1 - m) * m ** (n - k) * history[k][index]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    assert any(
        not torch.equal(a, b) for a, b in zip(history[0], parameters(model.student), strict=True)
    )


def test_momentum_0_is_the_student_and_a_warm_up_begins_small() -> None:
    model = build(config(dict(ema=dict(kind='ema', of='student', momentum=0.0))))
    list(steps(model, 2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(parameters(model.runs['ema'].model), parameters(model.student), strict=True)
    )
    rule = EMA(momentum=0.5, warm_up=True)
    assert [rule.momentum_at(k) for k in (1, 2, 8, 100)] == [2 / 11, 3 / 12, 0.5, 0.5]
    assert EMA(momentum=0.5).momentum_at(1) == 0.5


@pytest.mark.parametrize('buffers', ['copy', 'mean'])
def test_buffers_are_copied_or_averaged(buffers: str) -> None:
    own, student = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    student.running_mean.fill_(4.0)
    student.num_batches_tracked.fill_(7)
    EMA(momentum=0.75, buffers=buffers).after_step(own, student, 1)
    assert own.running_mean.item() == (4.0 if buffers == 'copy' else 1.0)
    assert own.num_batches_tracked.item() == 7


def test_the_copy_says_what_the_student_says_in_eval_mode() -> None:
    """Before the first step it is the student, images and all."""
    model = build(config(dict(ema=EMA_OF_STUDENT)))
    data = model.data_preprocessor(batch(2, 32, 3), True)
    model._stepping = True
    record, _ = model.observe(**data)
    said = record['ema']['logits']
    with torch.no_grad():
        model.eval()
        wanted = model.student(data['inputs'], data['data_samples'], mode='tensor')
    assert not said.requires_grad
    # the student's norms have seen this batch once more since the copy was made
    model.runs['ema'].begun = False
    again, _ = model.observe(**data)
    torch.testing.assert_close(again['ema']['logits'], wanted)


def test_a_copy_of_the_whole_has_a_teacher_of_its_own() -> None:
    """At momentum 0 a teacher is its student: the copy's the copy's, the original's its own."""
    made = dict(ema=dict(kind='ema', of='student', momentum=0.0))
    model = build(config(made))
    list(steps(model, 1))
    twin = copy.deepcopy(model)
    assert twin.runs['ema'].student is twin.student
    list(steps(twin, 2))
    assert (model.runs['ema'].steps, twin.runs['ema'].steps) == (1, 3)
    for one in (model, twin):
        pairs = zip(parameters(one.runs['ema'].model), parameters(one.student), strict=True)
        assert all(torch.equal(mean, own) for mean, own in pairs)
    moved = zip(parameters(model.student), parameters(twin.student), strict=True)
    assert not all(torch.equal(own, other) for own, other in moved)


def test_it_follows_optimizer_steps_and_not_iterations() -> None:
    model = build(config(dict(ema=EMA_OF_STUDENT)))
    wrapper = sgd(model, lr=0.1, accumulative_counts=2)
    list(steps(model, 5, wrapper=wrapper))
    assert model.runs['ema'].steps == 2


def test_it_follows_the_optimizer_of_its_own_student() -> None:
    """Of two peers the one steps each time, the other in every fourth."""
    names = ('p0', 'p1')
    made = {f'{name}_copy': dict(kind='ema', of=name) for name in names}
    objectives, phases, wrappers = {}, [], {}
    for name in names:
        objectives |= reads(f'{name}_copy', student=name)
        own = dict(name=name, optimizer=name, task=[name], objectives=[f'{name}_{name}_copy'])
        phases.append(own)
    students = {name: dict(model=net(2)) for name in names}
    model = build(config(made, objectives, student=None, students=students, phases=phases))
    for name, counts in zip(names, (1, 4), strict=True):
        wrappers[name] = sgd(model.students[name], accumulative_counts=counts)
    list(steps(model, 8, wrapper=OptimWrapperDict(**wrappers)))
    assert [model.runs[name].steps for name in made] == [8, 2]


def test_a_schedule_sets_the_momentum() -> None:
    model = build(config(dict(ema=EMA_OF_STUDENT)))
    line = dict(type='linear', start=0.5, end=1.0, length=10)
    hook = ScheduleHook([dict(target='teachers.ema.momentum', **line)])
    logged: dict[str, float] = {}
    hub = type('Hub', (), dict(update_scalar=lambda self, key, x: logged.update({key: x})))()
    runner = type('Runner', (), dict(model=model, iter=5, max_iters=20, message_hub=hub))()
    hook.before_train(runner)
    hook.before_train_iter(runner, 5)
    assert model.runs['ema'].rule.momentum == 0.75
    assert logged == {'train/ema.momentum': 0.75}


@pytest.mark.parametrize(
    ('target', 'end', 'error', 'text'),
    [
        ('teachers.emma.momentum', 1.0, KeyError, "did you mean 'ema'"),
        ('teachers.ema.momentun', 1.0, KeyError, "did you mean 'momentum'"),
        ('teachers.ema.momentum', 1.5, ValueError, 'from 0 to 1, got 1.5'),
    ],
)
def test_a_schedule_of_no_number_is_refused(
    target: str, end: float, error: type, text: str
) -> None:
    model = build(config(dict(ema=EMA_OF_STUDENT)))
    hook = ScheduleHook([dict(target=target, type='linear', start=0.5, end=end, length=10)])
    with pytest.raises(error, match=re.escape(text)):
        hook.before_train(type('Runner', (), dict(model=model, max_iters=20))())


# ---------------------------------------------------------------------- past


@pytest.mark.parametrize('k', [1, 3])
def test_past_is_the_student_k_steps_ago_or_more(k: int) -> None:
    model = build(config(dict(past=dict(kind='past', of='student', steps=k))))
    history = [parameters(model.student)]
    for _ in steps(model, 8):
        history.append(parameters(model.student))
        n = len(history) - 1
        wanted = history[max(0, k * (n // k - 1))]
        found = parameters(model.runs['past'].model)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), n


# ---------------------------------------------------------------------- what holds for copies


def test_copies_are_in_no_optimizer_and_in_the_checkpoint_once_they_began() -> None:
    model = build(config(dict(ema=EMA_OF_STUDENT, past=dict(kind='past', of='student', steps=2))))
    students = {name for name, _ in model.student.named_parameters()}
    assert {name for name, _ in model.named_parameters()} == {
        f'students.student.{name}' for name in students
    }
    assert not [key for key in model.state_dict() if key.startswith('teachers.')]
    list(steps(model, 1))
    keys = [key for key in model.state_dict() if key.startswith('teachers.')]
    own = len(model.student.state_dict())
    assert len(keys) == 2 * (1 + own) + own  # the numbers of steps, two copies, what waits


def test_a_copy_goes_on_from_a_checkpoint_bit_for_bit() -> None:
    teachers = dict(ema=EMA_OF_STUDENT, past=dict(kind='past', of='student', steps=2))
    whole = build(config(teachers))
    wrapper = sgd(whole, lr=0.1)
    list(steps(whole, 3, wrapper=wrapper))
    state = copy.deepcopy(whole.state_dict())
    parts = build(config(teachers))
    assert not any(parts.load_state_dict(state))
    for model, own in ((whole, sgd(whole, lr=0.1)), (parts, sgd(parts, lr=0.1))):
        torch.manual_seed(1)
        list(steps(model, 3, 3, wrapper=own))
    one, other = whole.state_dict(), parts.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_other_weights_than_a_copys_are_an_error() -> None:
    model = build(config(dict(ema=EMA_OF_STUDENT)))
    list(steps(model, 1))
    state = model.state_dict()
    state.pop('teachers.ema.model.decode_head.conv_seg.weight')
    with pytest.raises(RuntimeError, match="teacher 'ema'"):
        model.load_state_dict(state)


def test_weights_without_a_copy_let_it_begin_as_the_student() -> None:
    model = build(config(dict(ema=EMA_OF_STUDENT)))
    list(steps(model, 2))
    plain = {k: x for k, x in model.state_dict().items() if not k.startswith('teachers.')}
    model.load_state_dict(plain)
    assert (model.runs['ema'].begun, model.runs['ema'].steps) == (False, 0)


def test_two_ranks_have_one_copy(tmp_path: Path) -> None:
    ranks(two_ranks_kinds.work, tmp_path)
    one, other = (json.loads((tmp_path / f'rank{k}.json').read_text()) for k in (0, 1))
    assert one.pop('own') != other.pop('own')  # statistics of norms that are not synchronised
    assert one == other


def test_a_step_of_another_wrapper_is_refused() -> None:
    """mmengine's DDP calls the losses, and steps by itself."""
    model = build(config(dict(ema=EMA_OF_STUDENT)))
    data = model.data_preprocessor(batch(2, 32, 3), True)
    with pytest.raises(RuntimeError, match=re.escape("model_wrapper_cfg=dict(type='mmkd.Phased")):
        model(**data, mode='loss')
    with torch.no_grad():
        model(**data, mode='loss')
    assert MMDistributedDataParallel.train_step.__qualname__  # whose way round it is


def test_mmkd_train_wraps_them_so_that_they_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, 'has_gpu', lambda: True)
    models = [config(teachers) for teachers in (dict(ema=EMA_OF_STUDENT), AB)]
    models.append({**models[1], 'teachers': None, 'teacher': EMA_OF_STUDENT})
    for model, wrapper in zip(models, ('mmkd.PhasedDDP', None, 'mmkd.PhasedDDP'), strict=True):
        cfg = Config(dict(model=model, launcher='pytorch'))
        prepare._distribute(cfg)
        assert (cfg.get('model_wrapper_cfg') or {}).get('type') == wrapper


def test_the_doctor_and_the_benchmark_take_them(tmp_path: Path) -> None:
    teachers = dict(a=big(), ema=EMA_OF_STUDENT, both=dict(kind='mean', of=['a', 'ema']))
    cfg = run_config(tmp_path, config(teachers, reads('ema', 'both')))
    cfg.optim_wrapper.pop('critic')
    report = diagnose(cfg, batches=1, val_batches=1)
    assert report.errors == []
    assert 'follows (EMA)' in str(report.tables)
    pair = Pair(cfg, Options(), batch_size=2)
    for case in pair.cases().values():
        case()


def run(folder: Path, name: str, max_iters: int, resume: bool = False) -> Any:
    teachers = dict(
        ema=dict(EMA_OF_STUDENT, warm_up=True),
        past=dict(kind='past', of='student', steps=2),
        both=dict(kind='mean', of=['ema', 'past'], drop=0.5),
        gate=dict(kind='gate', of=['ema', 'past']),
    )
    gate = dict(CE, reads=dict(student='gate.logits', teacher='ema.logits', labels='batch.labels'))
    model = config(teachers, reads('ema', 'both', 'gate') | dict(learn=gate))
    cfg = run_config(folder, model, max_iters=max_iters, interval=3, val_interval=99, name=name)
    cfg.optim_wrapper.pop('critic')
    line = dict(type='linear', start=0.5, end=1.0, length=6)
    schedule = dict(target='teachers.ema.momentum', **line)
    cfg.custom_hooks.append(dict(type='mmkd.ScheduleHook', schedules=[schedule]))
    cfg.dump(folder / f'{name}.py')
    return train(load_config(str(folder / f'{name}.py'), work_dir=cfg.work_dir), resume)


def test_a_run_of_all_kinds_resumes_bit_for_bit_and_exports_the_student(tmp_path: Path) -> None:
    whole = run(tmp_path, 'whole', 6)
    run(tmp_path, 'parts', 3)
    parts = run(tmp_path, 'parts', 6, resume=True)
    one, other = checkpoint(whole, 'iter_6.pth'), checkpoint(parts, 'iter_6.pth')
    for key in ('state_dict', 'optimizer'):
        assert differences(one[key], other[key]) == [], key
    assert one['state_dict']['teachers.ema.steps'] == 6
    assert 'combined.gate.weigh.weight' in one['state_dict']
    out = tmp_path / 'student.pth'
    export_student(Path(whole.work_dir) / 'iter_6.pth', out)
    saved = torch.load(out, weights_only=True)
    state = saved.get('state_dict', saved)
    assert not [key for key in state if 'teachers' in key or 'combined' in key]


# ---------------------------------------------------------------------- combinations

LOGITS = torch.randn(3, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0)).double()


def test_mean_is_the_mean_of_probabilities() -> None:
    wanted = sum(z.softmax(1) for z in LOGITS) / 3
    torch.testing.assert_close(Mean()(list(LOGITS)).softmax(1), wanted)
    torch.testing.assert_close(Mean()(list(LOGITS)).exp(), wanted)
    torch.testing.assert_close(Mean(space='values')(list(LOGITS)), LOGITS.mean(0))
    one = Mean()([LOGITS[0], LOGITS[0]])
    torch.testing.assert_close(one, LOGITS[0].log_softmax(1))


def test_min_ce_is_the_loop() -> None:
    labels = torch.tensor([[[0, 3], [2, -1]], [[1, 1], [-1, 0]]])
    found = MinCE()(list(LOGITS), labels)
    for n in range(2):
        for i in range(2):
            for j in range(2):
                places = LOGITS[:, n, :, i, j]
                y = int(labels[n, i, j])
                wanted = places.softmax(1).mean(0).log()
                if y >= 0:
                    wanted = min(places, key=lambda z, y=y: float(z.logsumexp(0) - z[y]))
                torch.testing.assert_close(found[n, :, i, j], wanted)


def test_a_gate_is_its_formula_and_learns() -> None:
    gate = Gate()
    gate.build(list(LOGITS))
    torch.testing.assert_close(gate(list(LOGITS)), LOGITS.mean(0), check_dtype=False)
    gate.double()
    torch.nn.init.normal_(gate.weigh.weight)
    torch.nn.init.normal_(gate.weigh.bias)
    for n in range(2):
        seen = torch.cat([z[n].softmax(0).mean((1, 2)) for z in LOGITS])
        shares = (gate.weigh.weight @ seen + gate.weigh.bias).softmax(0)
        wanted = sum(g * z[n] for g, z in zip(shares, LOGITS, strict=True))
        torch.testing.assert_close(gate(list(LOGITS))[n], wanted)
    shares = gate.shares(LOGITS, [0, 2])
    torch.testing.assert_close(shares.sum(1), torch.ones(2).double())
    assert shares[:, 1].tolist() == [0, 0]
    vectors = LOGITS[..., 0, 0]
    assert gate(list(vectors)).shape == (2, 4)


def test_a_gate_takes_part_where_its_objective_is_mute() -> None:
    """DDP waits for the gradient of every weight."""
    gate = dict(CE, reads=dict(student='gate.logits', teacher='a.logits', labels='batch.labels'))
    made = dict(a=big(), b=big(4), gate=dict(kind='gate', of=['a', 'b']))
    model = build(config(made, reads('a') | dict(learn=gate)))
    model.objectives['learn'].weight = 0.0
    losses = model(**model.data_preprocessor(batch(2, 32, 3), True), mode='loss')
    model.parse_losses(losses)[0].backward()
    assert not model.combined['gate'].weigh.weight.grad.any()


def test_a_gate_learns_and_is_in_the_students_optimizer() -> None:
    gate = dict(CE, reads=dict(student='gate.logits', teacher='a.logits', labels='batch.labels'))
    made = dict(a=big(), b=big(4), gate=dict(kind='gate', of=['a', 'b']))
    model = build(config(made, reads('gate') | dict(learn=gate)))
    named = dict(model.named_parameters())
    assert 'combined.gate.weigh.weight' in named
    list(steps(model, 2))
    assert named['combined.gate.weigh.weight'].abs().max() > 0


def test_drop_leaves_out_members_and_never_all() -> None:
    torch.manual_seed(0)
    rule, drawn = Mean(drop=0.5), [0, 0, 0]
    number = 2000
    for _ in range(number):
        kept = rule.kept(3)
        assert kept
        for k in kept:
            drawn[k] += 1
    # 1/2 each, and a third of the cases in which all were left out
    assert all(abs(n / number - (0.5 + 0.125 / 3)) < 0.04 for n in drawn)
    rule.eval()
    assert rule.kept(3) == [0, 1, 2]
    torch.manual_seed(3)
    first = [rule.train().kept(3) for _ in range(9)]
    torch.manual_seed(3)
    assert [rule.kept(3) for _ in range(9)] == first
    values = list(LOGITS)
    torch.manual_seed(5)
    left = rule.kept(3)
    torch.manual_seed(5)
    torch.testing.assert_close(rule(values), Mean()([values[k] for k in left]))


def test_a_combination_reads_members_of_any_size_and_kind() -> None:
    """Peers, teachers and copies; a map of another size is resized to that of the first."""
    small = torch.ones(1, 2, 2, 2)
    assert Mean(space='values')([torch.zeros(1, 2, 4, 4), small]).shape == (1, 2, 4, 4)
    students = dict(p=dict(model=net(2)), q=dict(model=net(3)))
    made = dict(
        big=big(),
        ema=dict(kind='ema', of='q', momentum=0.5),
        mean=dict(kind='mean', of=['p', 'q', 'big', 'ema']),
        best=dict(kind='min-ce', of='*'),
    )
    objectives = reads('mean', student='p') | reads('mean', 'best', student='q')
    model = build(config(made, objectives, student=None, students=students))
    assert model.combinations['best'].of == ('p', 'q', 'big', 'ema')
    found = list(steps(model, 2))
    assert all(value.isfinite() for value in found[-1].values())
    assert found[-1]['q_best.loss'] > 0


def test_what_a_combination_says_carries_no_gradient_unless_it_learns() -> None:
    made = dict(a=big(), mean=dict(kind='mean', of=['a', 'student']))
    model = build(config(made, reads('mean')))
    model._stepping = True
    record, _ = model.observe(**model.data_preprocessor(batch(2, 32, 3), True))
    assert record['student']['logits'].requires_grad
    assert not record['mean']['logits'].requires_grad
    wanted = (record['a']['logits'].softmax(1) + record['student']['logits'].softmax(1)) / 2
    torch.testing.assert_close(record['mean']['logits'].exp(), wanted.detach())


# ---------------------------------------------------------------------- kinds of one's own


def test_a_copy_of_ones_own_kind_is_one_class() -> None:
    @KINDS.register_module(name='every-second')
    class EverySecond(Follow):
        def __init__(self, offset: int = 0) -> None:
            self.offset = offset

        def after_step(self, own: nn.Module, student: nn.Module, step: int) -> None:
            if (step + self.offset) % 2 == 0:
                take_all(own, student)

    model = build(config(dict(own=dict(kind='every-second', of='student', offset=1))))
    history = [parameters(model.student)]
    for _ in steps(model, 3):
        history.append(parameters(model.student))
    found = parameters(model.runs['own'].model)
    assert all(torch.equal(a, b) for a, b in zip(found, history[3], strict=True))


def test_a_combination_of_ones_own_kind_is_one_class() -> None:
    class Largest(Combine):
        def combine(self, values: Tensor, labels: Tensor | None) -> Tensor:
            return values.amax(0)

    model = build(config(dict(a=big(), b=big(), top=dict(kind=Largest, of=['a', 'b']))))
    model._stepping = True
    record, _ = model.observe(**model.data_preprocessor(batch(2, 32, 3), True))
    both = torch.stack([record['a']['logits'], record['b']['logits']])
    torch.testing.assert_close(record['top']['logits'], both.amax(0))


# ---------------------------------------------------------------------- mistakes

AB = dict(a=big(), b=big())


@pytest.mark.parametrize(
    ('teachers', 'error', 'text'),
    [
        (dict(ema=dict(kind='ema', of='studnet')), KeyError, "did you mean 'student'"),
        (AB | dict(c=dict(kind='mean', of=['a', 'x'])), KeyError, "of='x' names no other member"),
        (
            dict(a=big(), ema=dict(kind='ema', of='a')),
            ValueError,
            "'a' is a teacher, which never changes",
        ),
        (dict(ema=dict(kind='emma', of='student')), ValueError, "did you mean 'ema'"),
        (dict(ema=dict(kind=nn.Linear, of='student')), TypeError, 'a class below Follow or'),
        (dict(ema=dict(EMA_OF_STUDENT, momentun=1)), TypeError, "did you mean 'momentum'"),
        (dict(ema=dict(EMA_OF_STUDENT, momentum=1.0)), ValueError, 'from 0 to below 1, got 1.0'),
        (dict(ema=dict(EMA_OF_STUDENT, momentum=-0.1)), ValueError, 'got -0.1'),
        (dict(ema=dict(EMA_OF_STUDENT, buffers='sum')), ValueError, 'buffers must be one of'),
        (dict(ema=dict(EMA_OF_STUDENT, warm_up=3)), ValueError, 'warm_up must be one of'),
        (dict(ema=dict(kind='ema')), TypeError, 'needs of='),
        (dict(ema=dict(kind='ema', of=[])), ValueError, 'made of no member'),
        (dict(ema=dict(kind='ema', of=3)), TypeError, 'needs of='),
        (dict(past=dict(kind='past', of='student')), TypeError, "also needs ['steps']"),
        (dict(past=dict(kind='past', of='student', steps=0)), ValueError, 'at least 1, got 0'),
        (dict(a=big(), g=dict(kind='gate', of=['a'])), ValueError, 'two members or more'),
        (AB | dict(m=dict(kind='mean', of=['a', 'b'], drop=1.0)), ValueError, 'drop must be'),
        (AB | dict(m=dict(kind='mean', of=['a', 'b'], space='x')), ValueError, 'space must be'),
        (AB | dict(m=dict(kind='mean', of=['a', 'b'], taps={})), TypeError, "key 'taps'"),
        (
            AB | dict(m=dict(kind='mean', of=['a', 'b']), n=dict(kind='mean', of=['m', 'a'])),
            ValueError,
            "'m' is a combination itself",
        ),
        (AB | dict(g=dict(kind='gate', of=['a', 'b'])), ValueError, 'which no objective trains'),
        (
            dict(a=big(), b=dict(model=segmentor(2, num_classes=4, size=32), allow_untrained=True))
            | dict(m=dict(kind='mean', of=['a', 'b'])),
            ValueError,
            'know other classes',
        ),
    ],
)
def test_a_mistake_is_told(teachers: dict, error: type, text: str) -> None:
    last = list(teachers)[-1]
    with pytest.raises(error, match=re.escape(text)):
        build(config(teachers, reads(last)))


@pytest.mark.bad_input
@pytest.mark.parametrize('kind', ['mean', 'min-ce'])
def test_probabilities_of_features_are_refused(kind: str) -> None:
    """What a softmax over the channels of a feature would teach is no feature."""
    stage = dict(feat='backbone.layer1')

    def build_with(**options: Any) -> Any:
        made = dict(m=dict(kind=kind, of=['a', 'b'], **options))
        loss = dict(loss=dict(type='FeatureMatchingLoss'), connectors=dict(student='auto'))
        of_m = dict(loss, reads=dict(student='student.feat', teacher='m.feat'))
        alike = dict(a=big(4), b=big(4))
        return build(config(alike | made, dict(feat=of_m), taps=stage))

    message = "tap 'feat' of 'a' .* class logits of its model have 3. Mend: .* space='values'"
    with pytest.raises(ValueError, match=message):
        build_with()
    if kind == 'mean':
        build_with(space='values')


def test_a_copy_of_two_students_and_a_student_of_a_kind_are_refused() -> None:
    students = dict(p=dict(model=net(2)), q=dict(model=net(3)))
    made = dict(ema=dict(kind='ema', of=['p', 'q']))
    with pytest.raises(ValueError, match='follows one student'):
        build(config(made, reads('ema', student='p'), student=None, students=students))
    with pytest.raises(ValueError, match="student 's' has a kind"):
        build(config(AB, reads('a'), student=None, students=dict(s=dict(EMA_OF_STUDENT))))


def test_tensors_that_do_not_go_together_are_told() -> None:
    with pytest.raises(ValueError, match='differ in more than size'):
        Mean()([torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4)])
    with pytest.raises(ValueError, match='only maps'):
        Mean()([torch.zeros(1, 2, 4), torch.zeros(1, 2, 5)])
    with pytest.raises(TypeError, match='several tensors'):
        Mean()([[torch.zeros(1, 2)], [torch.zeros(1, 2)]])
    with pytest.raises(ValueError, match='single class'):
        Mean()([torch.zeros(1, 1), torch.zeros(1, 1)])
    with pytest.raises(ValueError, match='needs labels'):
        MinCE()([torch.zeros(1, 2), torch.zeros(1, 2)])
    with pytest.raises(NotImplementedError, match='after_step'):
        Follow().after_step(nn.Identity(), nn.Identity(), 1)
    with pytest.raises(NotImplementedError, match='combine'):
        Combine()([torch.zeros(1, 2), torch.zeros(1, 2)])
    with pytest.raises(ValueError, match='waits'):
        Past(1).load_state({})
    with pytest.raises(ValueError, match='keeps nothing'):
        EMA().load_state(dict(a=torch.zeros(1)))


def test_parts_without_a_lost_member_lose_what_is_made_of_it() -> None:
    teachers = AB | dict(m=dict(kind='mean', of=['a', 'b']))
    parts = assemble(Settings.of(config(teachers, reads('m', 'a'))))
    assert isinstance(parts, Parts)
    parts.lose_member('b')
    assert ('m' in parts.combined, list(parts.objectives)) == (False, ['student_a'])


def test_what_chooses_by_labels_wants_labels_that_fit() -> None:
    """Labels do not fit images that were mixed."""
    best = AB | dict(best=dict(kind='min-ce', of=['a', 'b']))
    noise = [dict(type='InputMixup')]
    build(config(best, reads('a'), task_weight=0.0, noise=noise) | dict(teachers=AB))
    with pytest.raises(ValueError, match="teacher 'best'"):
        build(config(best, reads('best'), task_weight=0.0, noise=noise))


@pytest.mark.bad_input
def test_labels_are_no_classes_of_teachers_whose_classes_are_mapped() -> None:
    """The label would be looked up among the teachers' classes, which are numbered otherwise."""

    def of(kind: str) -> dict:
        mapped = reads('m')
        for objective in mapped.values():
            objective['class_map'] = [1, 2, 0]
        return config(AB | dict(m=dict(kind=kind, of=['a', 'b'])), mapped)

    build(of('mean'))
    with pytest.raises(
        ValueError, match=r"teacher 'm' looks for the label among .*class_map\). Mend: kind='mean'"
    ):
        build(of('min-ce'))


def test_nothing_is_fitted_to_what_goes_on_changing() -> None:
    objective = dict(
        loss=dict(type='FactorTransferLoss'),
        reads=dict(student='student.logits', teacher='ema.logits'),
    )
    with pytest.raises(
        ValueError, match=r"'ema.logits', which is no teacher \(frozen teachers: \["
    ):
        build(config(dict(ema=EMA_OF_STUDENT), dict(ft=objective)))
