"""Optimizers by phase: which parameters each owns, paramwise options, what is refused."""

import copy
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.tiny import batch, build, distiller, holistic, objectives, segmentor
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from mmkd.engine.optimizers.phase_constructor import PhaseOptimWrapperDict

SGD = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, weight_decay=0.01))
ADAM = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99)))
LOGIT = dict(name='logit', optimizer='student', task=True, objectives=['pixel'])
CRITIC = dict(name='critic', optimizer='critic', critics=['holistic'])


def optim(model: nn.Module, paramwise_cfg: dict | None = None, **optimizers: Any) -> Any:
    """Build as the Runner does."""
    cfg = dict(constructor='mmkd.PhaseOptimWrapperConstructor', **optimizers)
    if paramwise_cfg is not None:
        cfg['paramwise_cfg'] = paramwise_cfg
    return build_optim_wrapper(model, cfg)


@pytest.fixture(scope='module')
def adversarial() -> Any:
    """A Distiller whose loss also has a connector: the teacher is wider."""
    terms = objectives(
        pair=dict(
            loss=dict(type='PairWiseAffinityLoss'),
            on='feat',
            connectors=dict(student=dict(type='Connector', in_channels=8, out_channels=16)),
        ),
        holistic=holistic(mode='hinge'),
    )
    return build(
        distiller(
            student=dict(model=segmentor(4, size=32)),
            objectives=terms,
            teacher=dict(model=segmentor(8, size=32), allow_untrained=True),
        )
    )


@pytest.fixture(scope='module')
def plain() -> Any:
    return build(
        distiller(
            student=dict(model=segmentor(4, size=32)),
            teacher=dict(model=segmentor(8, size=32), allow_untrained=True),
        )
    )


def owned(wrapper: Any, model: nn.Module) -> set[str]:
    held = {id(p) for group in wrapper.optimizer.param_groups for p in group['params']}
    return {name for name, p in model.named_parameters() if id(p) in held}


# ---------------------------------------------------------------- who owns what


def test_by_default_students_and_connectors_here_and_critics_there(adversarial: Any) -> None:
    wrappers = optim(adversarial, student=SGD, critic=ADAM)
    assert isinstance(wrappers, PhaseOptimWrapperDict)
    assert list(wrappers.keys()) == ['student', 'critic']
    everything = {name for name, _ in adversarial.named_parameters()}
    critics = {name for name in everything if name.startswith('objectives.holistic.loss.critic.')}
    assert owned(wrappers['critic'], adversarial) == critics != set()
    assert owned(wrappers['student'], adversarial) == everything - critics
    assert 'objectives.pair.connectors.student.conv.weight' in owned(
        wrappers['student'], adversarial
    )
    assert isinstance(wrappers['critic'].optimizer, torch.optim.Adam)
    assert not any('teacher' in name for name in everything)


def test_one_group_without_paramwise_options(adversarial: Any) -> None:
    wrappers = optim(adversarial, student=SGD, critic=ADAM)
    assert [len(w.optimizer.param_groups) for w in wrappers.values()] == [1, 1]
    assert wrappers['student'].optimizer.param_groups[0]['lr'] == 0.1
    assert wrappers['critic'].optimizer.param_groups[0]['betas'] == (0.9, 0.99)


LINEAR = dict(type='LinearLR', start_factor=0.5, begin=0, end=10, by_epoch=False)
POLY = dict(type='PolyLR', power=0.9, begin=0, end=100, by_epoch=False)


def built(wrapper: Any, schedulers: Any) -> Any:
    """Return what a bare Runner makes of schedules: the types, by optimizer where there are
    several.
    """
    runner = SimpleNamespace(optim_wrapper=wrapper, train_dataloader=[0], _train_loop=None)
    runner._build_param_scheduler = lambda scheduler, one: Runner._build_param_scheduler(
        runner, scheduler, one
    )
    found = Runner.build_param_scheduler(runner, schedulers)
    if isinstance(found, dict):
        return {name: [type(one).__name__ for one in own] for name, own in found.items()}
    return [type(one).__name__ for one in found]


def test_a_bare_runner_completes_schedules_by_name(adversarial: Any) -> None:
    """mmengine's own dies with KeyError 'critic'."""
    wrappers = optim(adversarial, student=SGD, critic=ADAM)
    assert built(wrappers, dict(student=[LINEAR, POLY])) == dict(
        student=['LinearLR', 'PolyLR'], critic=[]
    )
    assert built(wrappers, dict(critic=POLY)) == dict(student=[], critic=['PolyLR'])
    assert built(wrappers, [POLY]) == dict(student=['PolyLR'], critic=['PolyLR'])
    assert built(wrappers, POLY) == dict(student=['PolyLR'], critic=['PolyLR'])


def test_one_remaining_optimizer_takes_its_own_schedules(plain: Any) -> None:
    wrapper = optim(plain, student=SGD, critic=ADAM)
    assert built(wrapper, dict(student=[LINEAR, POLY], critic=[POLY])) == ['LinearLR', 'PolyLR']
    assert built(wrapper, dict(student=POLY)) == ['PolyLR']
    assert built(wrapper, dict(critic=[POLY])) == []
    model = MODELS.build({**segmentor(4, size=32), '_scope_': 'mmseg'})
    assert built(optim(model, student=SGD, critic=ADAM), dict(student=[POLY], critic=[LINEAR])) == [
        'PolyLR'
    ]
    assert built(optim(model, main=SGD), dict(main=[POLY])) == ['PolyLR']


def test_schedules_of_an_unknown_optimizer(adversarial: Any, plain: Any) -> None:
    message = (
        r"param_scheduler names the optimizer 'critics'; did you mean 'critic'\? .optim_wrapper "
        r"has \['student', 'critic'\]"
    )
    for model in (adversarial, plain):
        with pytest.raises(KeyError, match=message):
            built(optim(model, student=SGD, critic=ADAM), dict(student=[POLY], critics=[POLY]))
    unnamed = OptimWrapper(torch.optim.SGD(plain.parameters(), lr=0.1))
    with pytest.raises(
        KeyError, match=r"param_scheduler names the optimizer 'student' .optim_wrapper has \[\]"
    ):
        built(unnamed, dict(student=[POLY]))


def test_optimizers_that_no_phase_uses_are_left_out(
    plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        'mmkd.engine.optimizers.phase_constructor.print_log',
        lambda line, **kwargs: said.append(line),
    )
    wrapper = optim(plain, student=SGD, critic=ADAM)
    assert type(wrapper) is OptimWrapper  # one schedule serves runs with and without a critic
    assert said == ["mmkd: no phase uses the optimizer 'critic', so it is not built"]
    assert owned(wrapper, plain) == {name for name, _ in plain.named_parameters()}


def test_a_plain_model_takes_the_student_optimizer() -> None:
    model = MODELS.build({**segmentor(4, size=32), '_scope_': 'mmseg'})
    wrapper = optim(model, student=SGD, critic=ADAM)
    assert type(wrapper) is OptimWrapper
    assert owned(wrapper, model) == {name for name, _ in model.named_parameters()}
    assert owned(optim(model, main=SGD), model) == owned(wrapper, model)  # or the only one there is
    with pytest.raises(
        KeyError,
        match=r"a plain model takes the optimizer 'student', which is not among \['a', 'b'\]",
    ):
        optim(model, a=SGD, b=SGD)


def test_two_optimizers_may_hold_the_same_weights() -> None:
    feature = dict(name='feature', optimizer='feature', objectives=['pair'])
    model = build(
        distiller(
            student=dict(model=segmentor(4, size=32)),
            phases=[LOGIT, feature],
            teacher=dict(model=segmentor(8, size=32), allow_untrained=True),
        )
    )
    wrappers = optim(model, student=SGD, feature=ADAM)
    assert (
        owned(wrappers['student'], model)
        == owned(wrappers['feature'], model)
        == {name for name, _ in model.named_parameters()}
    )


def test_params_by_prefix(adversarial: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        'mmkd.engine.optimizers.phase_constructor.print_log',
        lambda line, **kwargs: said.append(line),
    )
    wrappers = optim(
        adversarial,
        student=dict(SGD, params=['students.student.backbone', 'objectives.pair.']),
        critic=dict(ADAM, params='critics'),
    )
    names = owned(wrappers['student'], adversarial)
    assert {name.rsplit('.', 3)[0] for name in names if 'backbone' not in name} == {
        'objectives.pair.connectors'
    }
    heads = [name for name, _ in adversarial.named_parameters() if '_head.' in name]
    assert len(names) + len(heads) + len(owned(wrappers['critic'], adversarial)) == len(
        list(adversarial.parameters())
    )
    assert said == [
        f'mmkd: no optimizer holds {len(heads)} parameters, which will not be trained: '
        f'{", ".join(heads[:3])}, …'
    ]


def test_the_optimizers_names_may_be_others() -> None:
    """Only 'critic' has a default of its own; ``params`` says it for another name."""
    model = build(
        distiller(
            student=dict(model=segmentor(4, size=32)),
            objectives=objectives(holistic=holistic()),
            teacher=dict(model=segmentor(8, size=32), allow_untrained=True),
            phases=[
                dict(LOGIT, optimizer='net', objectives=['pixel', 'pair', 'holistic']),
                dict(CRITIC, optimizer='judge'),
            ],
        )
    )
    wrappers = optim(model, net=SGD, judge=dict(ADAM, params='critics'))
    assert owned(wrappers['judge'], model) == {
        n for n, _ in model.named_parameters() if '.loss.critic.' in n
    }
    assert owned(wrappers['net'], model) == {
        n for n, _ in model.named_parameters() if '.loss.critic.' not in n
    }


@pytest.mark.parametrize(
    ('params', 'error', 'message'),
    [
        (
            ['students.student.backbon.layer1'],
            KeyError,
            r"optimizer 'student': params prefix 'students.student.backbon.layer1' names no "
            r"parameter; did you mean 'students.student.backbone",
        ),
        (
            'student',
            ValueError,
            "optimizer 'student': params must be 'students', 'critics' or a list of prefixes of "
            "parameter names, got 'student'",
        ),
    ],
)
def test_bad_params(adversarial: Any, params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optim(adversarial, student=dict(SGD, params=params), critic=ADAM)


def test_an_optimizer_without_parameters(plain: Any) -> None:
    with pytest.raises(
        ValueError, match="optimizer 'student' owns no parameter. Mend: params='students'"
    ):
        optim(plain, student=dict(SGD, params='critics'))


def test_a_student_whose_own_losses_would_train_nothing() -> None:
    """Two students with an optimizer each: the second's own losses would be restricted to the
    first's weights.
    """
    model = two_peers(one=True)
    with pytest.raises(
        ValueError,
        match="phase 'one' takes the task losses, but its optimizer 'one' holds no "
        "parameter of student 'two', whose own losses would train nothing. Mend: "
        r"params='students' in that optimizer, or task=\[…\] without 'two'",
    ):
        optim(
            model, one=dict(SGD, params=['students.one.']), two=dict(SGD, params=['students.two.'])
        )
    wrappers = optim(model, one=SGD, two=dict(SGD, params=['students.two.']))
    logs = model.train_step(batch(2, 32), wrappers)
    assert {'one.decode.loss_ce', 'two.decode.loss_ce', 'left.loss', 'right.loss'} <= set(logs)


def test_an_optimizer_for_each_peers_own_losses() -> None:
    """Each phase's gradient is that of its peer's own losses and objective, and each step has its
    own rate.
    """
    model = two_peers(one=['one'], two=['two'])
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    twin = copy.deepcopy(model)
    model.train_step(
        batch(2, 32),
        optim(
            model, one=dict(SGD, params=['students.one.']), two=dict(SGD, params=['students.two.'])
        ),
    )
    assert all(
        not torch.equal(p, start[n])
        for n, p in model.named_parameters()
        if n.endswith('conv_seg.weight')
    )
    twin.train_step(
        batch(2, 32),
        optim(
            twin,
            one=dict(SGD, params=['students.one.']),
            two=dict(SGD, optimizer=dict(type='SGD', lr=0.0), params=['students.two.']),
        ),
    )
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(theirs, ours if 'students.one' in name else start[name]), name


@pytest.mark.bad_input
def test_an_objective_in_the_phase_of_another_peer() -> None:
    """It would be logged, and nothing would learn from it."""
    model = two_peers(one=['one'], two=['two'])
    one, two = (dict(SGD, params=[f'students.{name}.']) for name in ('one', 'two'))
    said = (
        "phase 'one' takes objective 'left', but its optimizer 'one' holds no parameter of 'one', "
        'which would learn nothing from it. Mend: the phase whose optimizer holds it'
    )
    model.phases = [replace(phase, task=()) for phase in model.phases]
    with pytest.raises(ValueError, match=re.escape(said)):
        optim(model, one=two, two=one)


@pytest.mark.bad_input
def test_a_gate_that_the_optimizer_of_its_phase_does_not_hold() -> None:
    """Its weights would stay as they began, all peers alike."""
    phases = [
        dict(name='one', optimizer='one', task=['one'], objectives=['logit0', 'ensemble']),
        dict(name='two', optimizer='two', task=['two'], objectives=['logit1']),
    ]
    students = {name: dict(model=segmentor(4, dropout=0.0, size=32)) for name in ('one', 'two')}
    model = build(dict(type='mmkd.Distiller', students=students, method='one', phases=phases))
    one, two = (dict(SGD, params=[f'students.{name}.']) for name in ('one', 'two'))
    said = (
        "phase 'one' takes objective 'ensemble', which trains 'gate', but its optimizer 'one' does "
        'not hold combined.gate.weigh.weight (no optimizer holds it), which would never be '
        "trained. Mend: add 'combined.gate' to params of 'one'"
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        optim(model, one=one, two=two)
    held = optim(model, one=dict(one, params=[*one['params'], 'combined.gate']), two=two)
    model.train_step(batch(2, 32), held)
    assert model.combined['gate'].weigh.weight.abs().max() > 0


def two_peers(**task: Any) -> Any:
    """Return two segmentors without dropout that teach each other, in the phases 'one' and
    'two'.
    """
    term = dict(loss=dict(type='PixelWiseKLLoss'))
    return build(
        dict(
            type='mmkd.Distiller',
            students={
                name: dict(model=segmentor(4, dropout=0.0, size=32)) for name in ('one', 'two')
            },
            taps=dict(logits='decode_head.conv_seg'),
            objectives=dict(
                left=dict(term, reads=dict(student='one.logits', teacher='two.logits')),
                right=dict(term, reads=dict(student='two.logits', teacher='one.logits')),
            ),
            phases=[
                dict(name=name, optimizer=name, task=task.get(name), objectives=[objective])
                for name, objective in (('one', 'left'), ('two', 'right'))
            ],
        )
    )


# ---------------------------------------------------------------- paramwise options


def by_lr(wrapper: Any, model: nn.Module) -> dict[str, tuple[float, float]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }


def test_custom_keys_of_one_optimizer(adversarial: Any) -> None:
    keys = dict(custom_keys={'backbone': dict(lr_mult=0.1), 'decode_head': dict(decay_mult=0.0)})
    wrappers = optim(adversarial, student=dict(SGD, paramwise_cfg=keys), critic=ADAM)
    settings = by_lr(wrappers['student'], adversarial)
    assert set(settings) == owned(
        optim(adversarial, student=SGD, critic=ADAM)['student'], adversarial
    )
    for name, (lr, decay) in settings.items():
        assert lr == pytest.approx(0.01 if 'backbone' in name else 0.1)
        assert decay == pytest.approx(0.0 if 'decode_head' in name else 0.01)
    assert len(wrappers['critic'].optimizer.param_groups) == 1
    assert wrappers.get_lr()['student.base_lr'] == [0.1]


def test_shared_paramwise_options_serve_each_by_its_own_lr(adversarial: Any) -> None:
    wrappers = optim(
        adversarial, dict(custom_keys={'bias': dict(lr_mult=2.0)}), student=SGD, critic=ADAM
    )
    for key, base in (('student', 0.1), ('critic', 4e-4)):
        for name, (lr, _) in by_lr(wrappers[key], adversarial).items():
            assert lr == pytest.approx(2 * base if 'bias' in name else base), name


def test_an_optimizers_own_options_come_first(adversarial: Any) -> None:
    own = dict(SGD, paramwise_cfg=dict(norm_decay_mult=0.0))
    wrappers = optim(
        adversarial, dict(custom_keys={'backbone': dict(lr_mult=0.0)}), student=own, critic=ADAM
    )
    settings = by_lr(wrappers['student'], adversarial)
    assert {lr for lr, _ in settings.values()} == {0.1}
    assert settings['students.student.backbone.layer1.0.bn1.weight'][1] == 0.0
    assert settings['students.student.decode_head.conv_seg.weight'][1] == 0.01


def test_a_shared_module_counts_once_under_bypass_duplicate() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Linear(2, 2))
            self.two = nn.Sequential(self.one[0])
            self.three = nn.Linear(2, 2)

    model = Shared()
    wrapper = optim(model, dict(bypass_duplicate=True, bias_lr_mult=2.0), student=SGD)
    assert len(wrapper.optimizer.param_groups) == 4
    assert by_lr(wrapper, model)['one.0.bias'][0] == pytest.approx(0.2)


def test_paramwise_and_plain_groups_step_alike(adversarial: Any) -> None:
    """A factor of 1 for every parameter is no option at all: same weights after a step."""
    after = []
    for paramwise in (None, dict(custom_keys={'students': dict(lr_mult=1.0)})):
        torch.manual_seed(0)
        model = build(
            distiller(
                student=dict(model=segmentor(4, dropout=0.0, size=32)),
                teacher=dict(model=segmentor(8, size=32), allow_untrained=True),
                objectives=objectives(holistic=holistic(mode='hinge')),
            )
        )
        wrappers = optim(model, paramwise, student=SGD, critic=ADAM)
        model.train_step(batch(2, 32), wrappers)
        after.append({name: p.detach() for name, p in model.named_parameters()})
    for name, value in after[0].items():
        torch.testing.assert_close(value, after[1][name], rtol=1e-6, atol=1e-7, msg=name)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ('stray', 'keys'),
    [
        (dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)), r"\['optimizer', 'type'\]"),
        (
            dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1), clip_grad=None),
            r"\['clip_grad', 'optimizer', 'type'\]",
        ),
        (dict(accumulative_counts=2), r"\['accumulative_counts'\]"),
    ],
)
def test_a_single_optimizers_keys_beside_the_names(
    adversarial: Any, stray: dict, keys: str
) -> None:
    with pytest.raises(
        TypeError,
        match=f'the keys {keys} of a single optimizer stand beside them. '
        r"Mend: optim_wrapper=dict\(_delete_=True, constructor='mmkd.PhaseOptim",
    ):
        optim(adversarial, student=SGD, critic=ADAM, **stray)


def test_a_missing_optimizer_names_the_nearest(adversarial: Any) -> None:
    with pytest.raises(
        KeyError,
        match=r"phase 'critic' needs the optimizer 'critic'; did you mean 'critics'\? "
        r".optim_wrapper has \['student', 'critics'\]",
    ):
        optim(adversarial, student=SGD, critics=ADAM)


def test_the_configs_own_dicts_are_left_as_they_were(adversarial: Any) -> None:
    student = dict(
        SGD,
        params='students',
        paramwise_cfg=dict(bias_lr_mult=2.0),
        accumulative_counts=1,
        clip_grad=dict(max_norm=1.0, type='norm'),
    )
    before = repr(student)
    optim(adversarial, student=student, critic=ADAM)
    assert repr(student) == before


# ---------------------------------------------------------------- the dictionary of wrappers


def test_counts_reach_every_wrapper(adversarial: Any) -> None:
    accumulate = dict(accumulative_counts=4)
    wrappers = optim(adversarial, student=dict(SGD, **accumulate), critic=dict(ADAM, **accumulate))
    wrappers.initialize_count_status(adversarial, 8, 21)
    assert [(w._inner_count, w._max_counts, w._remainder_counts) for w in wrappers.values()] == [
        (8, 21, 1)
    ] * 2
    OptimWrapperDict.initialize_count_status(
        wrappers, adversarial, 0, 5
    )  # mmengine's own tells none
    assert wrappers['critic']._max_counts == 21


def test_gradient_norms_are_logged_by_phase_and_by_value() -> None:
    """Two wrappers of mmengine's would write into one key; the norms are those of each phase's
    gradient.
    """
    model = build(
        distiller(
            student=dict(model=segmentor(4, dropout=0.0, size=32)),
            teacher=dict(model=segmentor(8, size=32), allow_untrained=True),
            objectives=objectives(holistic=holistic(mode='hinge')),
            phases=[dict(LOGIT, name='net', objectives=['pixel', 'pair', 'holistic']), CRITIC],
        )
    )
    clip = dict(clip_grad=dict(max_norm=1e9))
    wrappers = optim(model, student=dict(SGD, **clip), critic=dict(ADAM, **clip))
    norms = {}
    for key, wrapper in wrappers.items():
        wrapper.optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs, key=key: norms.update(
                {
                    key: torch.stack(
                        [
                            p.grad.norm()
                            for group in optimizer.param_groups
                            for p in group['params']
                            if p.grad is not None
                        ]
                    )
                    .norm()
                    .item()
                }
            )
        )
    hub = MessageHub.get_current_instance()
    hub.log_scalars.pop('train/grad_norm', None)
    model.train_step(batch(2, 32), wrappers)
    assert hub.get_scalar('train/net.grad_norm').current() == pytest.approx(
        norms['student'], rel=1e-5
    )
    assert hub.get_scalar('train/critic.grad_norm').current() == pytest.approx(
        norms['critic'], rel=1e-5
    )
    assert norms['student'] != pytest.approx(norms['critic'], rel=1e-2)
    assert 'train/grad_norm' not in hub.log_scalars


def test_learning_rates_are_logged_by_optimizer(adversarial: Any) -> None:
    assert optim(adversarial, student=SGD, critic=ADAM).get_lr() == {
        'student.lr': [0.1],
        'critic.lr': [4e-4],
    }


def test_states_go_by_name(adversarial: Any) -> None:
    wrappers = optim(adversarial, student=SGD, critic=ADAM)
    adversarial.train_step(batch(2, 32), wrappers)
    state = wrappers.state_dict()
    assert set(state) == {'student', 'critic'}
    other = optim(adversarial, student=SGD, critic=ADAM)
    other.load_state_dict(state)
    for index, values in state['critic']['state'].items():
        assert torch.equal(
            other['critic'].state_dict()['state'][index]['exp_avg'], values['exp_avg']
        )
