"""The Distiller: its numbers, what stays untouched, who is where, and the probe."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny
from helpers.peers import batch as images
from helpers.peers import classifier
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from mmkd.distiller import Distiller
from mmkd.distiller.probe import probe_batch, probing, try_objective
from mmkd.distiller.taps.taps import Taps
from mmkd.losses import pair_wise_affinity, pixel_wise_kl
from mmkd.structures.record import Record

ROOT = Path(__file__).resolve().parents[2]
TWO_PHASES = dict(objectives=tiny.objectives(holistic=tiny.holistic(mode='hinge')))


def optimizer(model: Any) -> Any:
    """One optimizer, or one for the student and one for the critic."""
    if len(model.phases) == 1:
        return tiny.sgd(model)
    one = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
    return OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type='mmkd.PhaseOptimWrapperConstructor',
            optim_wrapper_cfg=dict(student=copy.deepcopy(one), critic=copy.deepcopy(one)),
        )
    )(model)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def peers(**overrides: Any) -> dict:
    """Two students that teach each other, no teacher."""
    kl = dict(type='PixelWiseKLLoss')
    terms = dict(
        first=dict(loss=kl, reads=dict(student='peer1.logits', teacher='peer2.logits')),
        second=dict(loss=kl, reads=dict(student='peer2.logits', teacher='peer1.logits')),
    )
    students = {name: dict(model=tiny.segmentor(4)) for name in ('peer1', 'peer2')}
    taps = dict(logits='decode_head.conv_seg')
    return dict(type='mmkd.Distiller', students=students, taps=taps, objectives=terms) | overrides


# ---------------------------------------------------------------------- numbers


def by_hand(student: Any, teacher: Any, inputs: Tensor, samples: list) -> dict[str, Tensor]:
    """The losses of Structured KD put together from the parts of two plain mmseg models."""
    features = student.backbone(inputs)
    feat = student.decode_head._forward_feature(features)
    logits = student.decode_head.conv_seg(student.decode_head.dropout(feat))
    losses = {
        f'decode.{k}': v for k, v in student.decode_head.loss_by_feat(logits, samples).items()
    }
    auxiliary = student.auxiliary_head.forward(features)
    losses |= {
        f'aux.{k}': v for k, v in student.auxiliary_head.loss_by_feat(auxiliary, samples).items()
    }
    with torch.no_grad():
        teacher_feat = teacher.eval().decode_head._forward_feature(teacher.backbone(inputs))
        teacher_logits = teacher.decode_head.conv_seg(teacher_feat)
    losses['pixel.loss'] = 10.0 * pixel_wise_kl(logits, teacher_logits)
    losses['pair.loss'] = 10.0 * pair_wise_affinity(feat, teacher_feat, patch=2)
    return losses


def test_losses_and_gradient_equal_the_composition_by_hand() -> None:
    model = tiny.build(tiny.distiller())
    student, teacher = copy.deepcopy(model.student), copy.deepcopy(model.teacher)
    data = model.data_preprocessor(tiny.batch(), True)
    torch.manual_seed(7)
    losses = model(**data, mode='loss')
    torch.manual_seed(7)  # the same dropout
    expected = by_hand(student, teacher, data['inputs'], data['data_samples'])
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-6, atol=1e-6)
    total, logs = model.parse_losses(losses)
    terms = ('decode.loss_ce', 'aux.loss_ce', 'pixel.loss', 'pair.loss')
    torch.testing.assert_close(total, sum(expected[key] for key in terms), rtol=1e-6, atol=1e-6)
    total.backward()
    sum(expected[key] for key in terms).backward()
    for (name, got), plain in zip(
        model.student.named_parameters(), student.parameters(), strict=True
    ):
        torch.testing.assert_close(got.grad, plain.grad, rtol=1e-6, atol=1e-6, msg=name)
    for (name, got), plain in zip(model.student.named_buffers(), student.buffers(), strict=True):
        assert torch.equal(got, plain), name  # the norms saw one batch


def test_a_step_is_the_step_of_the_composition() -> None:
    model = tiny.build(tiny.distiller())
    student, teacher = copy.deepcopy(model.student), copy.deepcopy(model.teacher)
    torch.manual_seed(7)
    logs = model.train_step(tiny.batch(), tiny.sgd(model, lr=0.5))
    torch.manual_seed(7)
    data = student.data_preprocessor(tiny.batch(), True)
    expected = by_hand(student, teacher, data['inputs'], data['data_samples'])
    loss = sum(value for key, value in expected.items() if 'loss' in key)
    loss.backward()
    assert set(logs) == {*expected, 'loss'}
    torch.testing.assert_close(logs['loss'], loss, rtol=1e-6, atol=1e-6)
    for (name, got), plain in zip(
        model.student.named_parameters(), student.parameters(), strict=True
    ):
        torch.testing.assert_close(
            got.data, plain.data - 0.5 * plain.grad, rtol=1e-6, atol=1e-6, msg=name
        )


def test_peers_teach_each_other() -> None:
    """Gradients are those of each peer's own losses; the other one is detached."""
    model = tiny.build(peers())
    nets = {name: copy.deepcopy(net) for name, net in model.students.items()}
    data = model.data_preprocessor(tiny.batch(), True)
    torch.manual_seed(7)
    losses = model(**data, mode='loss')
    torch.manual_seed(7)
    logits, total = {}, 0.0
    for name, net in nets.items():
        handle = net.decode_head.conv_seg.register_forward_hook(
            lambda _, x, y, name=name: logits.update({name: y})
        )
        own = net(**data, mode='loss')
        handle.remove()
        total += own['decode.loss_ce'] + own['aux.loss_ce']
        assert all(torch.equal(losses[f'{name}.{key}'], value) for key, value in own.items())
    total += pixel_wise_kl(logits['peer1'], logits['peer2'].detach())
    total += pixel_wise_kl(logits['peer2'], logits['peer1'].detach())
    total.backward()
    model.parse_losses(losses)[0].backward()
    for name, net in nets.items():
        for got, plain in zip(model.students[name].parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(got.grad, plain.grad, rtol=1e-6, atol=1e-6)


def test_channels_last_changes_no_number() -> None:
    torch.manual_seed(1)
    plain = tiny.build(tiny.distiller())
    torch.manual_seed(1)  # the same teacher
    last = tiny.build(tiny.distiller(student=dict(model=tiny.segmentor(4), channels_last=True)))
    last.load_state_dict(plain.state_dict())  # random numbers fill memory in its order
    assert last.student.backbone.layer1[0].conv1.weight.is_contiguous(
        memory_format=torch.channels_last
    )
    seen = []
    last.student.backbone.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    logs = []
    for model in (plain, last):
        torch.manual_seed(2)
        logs.append(model.train_step(tiny.batch(), tiny.sgd(model)))
    assert seen == [True]
    for key, value in logs[0].items():
        torch.testing.assert_close(logs[1][key], value, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- what stays untouched


@pytest.mark.parametrize('overrides', [{}, TWO_PHASES], ids=['one phase', 'two phases'])
def test_one_forward_of_every_member_an_iteration(overrides: dict) -> None:
    model = tiny.build(tiny.distiller(**overrides))
    optim, before = optimizer(model), copy.deepcopy(model.teacher.state_dict())
    seen: dict[str, list] = dict(student=[], teacher=[])
    for name, net in (('student', model.student), ('teacher', model.teacher)):
        net.forward = lambda *args, f=net.forward, name=name, **kwargs: (
            seen[name].append((kwargs['mode'], torch.is_grad_enabled())) or f(*args, **kwargs)
        )
        net.backbone.register_forward_hook(lambda *_, name=name: seen[name].append('backbone'))
    losses = mock.patch.object(
        type(model.teacher.decode_head),
        'loss_by_feat',
        autospec=True,
        side_effect=type(model.teacher.decode_head).loss_by_feat,
    )
    with losses as computed:
        for i in range(3):
            model.train()
            logs = model.train_step(tiny.batch(seed=i), optim)
    assert seen['student'] == [('loss', True), 'backbone'] * 3
    assert seen['teacher'] == [('tensor', False), 'backbone'] * 3
    assert {id(call.args[0]) for call in computed.call_args_list} == {id(model.student.decode_head)}
    assert ('holistic.critic_loss' in logs) == bool(overrides)
    assert not any(m.training for m in model.teacher.modules())
    after = model.teacher.state_dict()
    assert all(
        torch.equal(after[key], value) for key, value in before.items()
    )  # BatchNorm statistics included
    assert any('running_mean' in key for key in before)
    assert hooks(model) - 1 == 0  # the one of this test
    assert hooks(model.teacher) - 1 == 0


def test_teacher_stays_in_eval_and_gives_the_same_twice() -> None:
    model = tiny.build(
        tiny.distiller(
            student=dict(model=tiny.segmentor(4, dropout=0.5)),
            teacher=dict(model=tiny.segmentor(8, dropout=0.5), allow_untrained=True),
        )
    )
    data = model.train().data_preprocessor(tiny.batch(), True)
    first, second = (model.observe(**data)[0]['teacher']['logits'] for _ in range(2))
    assert torch.equal(first, second)
    own = (
        model.observe(**data)[0]['student']['logits'],
        model.observe(**data)[0]['student']['logits'],
    )
    assert not torch.equal(*own)  # the student's dropout is on


def test_hooks_go_when_a_member_raises() -> None:
    model = tiny.build(tiny.distiller())
    data = model.data_preprocessor(tiny.batch(), True)
    with (
        mock.patch.object(
            model.student.auxiliary_head, 'loss', side_effect=RuntimeError('broken head')
        ),
        pytest.raises(RuntimeError, match='broken head'),
    ):
        model(**data, mode='loss')
    with (
        mock.patch.object(
            model.teacher.decode_head, 'forward', side_effect=RuntimeError('broken teacher')
        ),
        pytest.raises(RuntimeError, match='broken teacher'),
    ):
        model(**data, mode='loss')
    assert hooks(model) == hooks(model.teacher) == 0


def test_only_taps_that_something_reads_are_hooked() -> None:
    cfg = tiny.distiller(
        taps=dict(
            logits='decode_head.conv_seg',
            feat='decode_head.bottleneck',
            stem='backbone.stem',
            nonsense='no.such.module',
        )
    )
    cfg['objectives'] = dict(pixel=cfg['objectives']['pixel'])
    model = tiny.build(cfg)
    assert list(model.runs['student'].taps.paths) == ['logits']
    assert list(model.runs['teacher'].taps.paths) == ['logits']
    during = []
    model.student.backbone.register_forward_hook(lambda *_: during.append(hooks(model)))
    model.train_step(tiny.batch(), tiny.sgd(model))
    assert during == [2]  # one tap and this one


def test_own_taps_win_over_shared_ones() -> None:
    cfg = tiny.distiller(
        teacher=dict(
            model=tiny.segmentor(8, head='FCNHead'),
            taps=dict(feat='decode_head.convs'),
            allow_untrained=True,
        )
    )
    model = tiny.build(cfg)
    assert model.runs['student'].taps.paths['feat'].text == 'decode_head.bottleneck'
    assert model.runs['teacher'].taps.paths['feat'].text == 'decode_head.convs'
    assert 'pair.loss' in model.train_step(tiny.batch(), tiny.sgd(model))


def test_taps_find_modules_that_were_replaced_after_the_build() -> None:
    cfg = tiny.distiller(
        student=dict(model=tiny.segmentor(4, norm='SyncBN')),
        teacher=dict(model=tiny.segmentor(8, norm='SyncBN'), allow_untrained=True),
        taps=dict(logits='decode_head.conv_seg', feat='backbone.layer4.1.bn2:input'),
    )
    model = revert_sync_batchnorm(tiny.build(cfg))
    assert not any(
        isinstance(m, nn.SyncBatchNorm) for m in [*model.modules(), *model.teacher.modules()]
    )
    assert model.train_step(tiny.batch(), tiny.sgd(model))['pair.loss'] > 0


# ---------------------------------------------------------------------- teachers are outside


def test_teacher_is_in_no_state_dict_optimizer_or_copy() -> None:
    built = tiny.segmentor(8)
    for teacher in (
        dict(model=built, allow_untrained=True),
        MODELS.build({**built, '_scope_': 'mmseg'}),
    ):
        model = tiny.build(tiny.distiller(teacher=teacher))
        own = {f'students.student.{key}' for key in model.student.state_dict()}
        assert set(model.state_dict()) == own
        weights = {id(p) for p in model.teacher.parameters()}
        assert not weights & {id(p) for p in model.parameters()}
        assert not weights & {
            id(p) for group in tiny.sgd(model).param_groups for p in group['params']
        }
        assert len(list(model.parameters())) == len(list(model.student.parameters()))
        memo: dict = {}
        copy.deepcopy(model, memo)
        assert not weights & set(memo)


def test_a_wrapper_in_the_place_of_a_student_runs() -> None:
    """As activation checkpointing and FSDP put one there."""

    class Wrapper(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return self.module(*args, **kwargs)

    model = tiny.build(tiny.distiller())
    model.students['student'] = wrapper = Wrapper(model.student)
    data = model.data_preprocessor(tiny.batch(), True)
    model.observe(**data)
    assert wrapper.calls == 1
    data['data_samples'][0].gt_sem_seg.data[..., 0] = 99
    with pytest.raises(ValueError, match=r'labels hold the ids \[99\]'):
        model.observe(**data)  # what the student learns is known, whatever stands in its place


def test_ema_shares_the_teacher_and_averages_the_student() -> None:
    model = tiny.build(tiny.distiller())
    ema = ExponentialMovingAverage(model, momentum=0.5)
    twin = ema.module
    assert twin.runs['teacher'] is model.runs['teacher']
    assert twin.teacher is model.teacher
    assert twin.student is not model.student
    assert twin.runs['student'].taps.model is twin.student
    before = model.student.backbone.stem[0].weight.clone()
    model.train_step(tiny.batch(), tiny.sgd(model, lr=0.5))
    ema.update_parameters(model)  # the first update copies
    model.train_step(tiny.batch(), tiny.sgd(model, lr=0.5))
    first, now = twin.student.backbone.stem[0].weight.clone(), model.student.backbone.stem[0].weight
    ema.update_parameters(model)
    torch.testing.assert_close(twin.student.backbone.stem[0].weight, (first + now) / 2)
    assert not torch.equal(before, now)


def test_casts_leave_the_teacher_and_moves_take_it_along() -> None:
    model = tiny.build(
        tiny.distiller(
            teacher=dict(model=tiny.segmentor(8), allow_untrained=True, precision='bf16')
        )
    )
    model.double()
    assert next(model.student.parameters()).dtype == torch.float64
    assert {p.dtype for p in model.teacher.parameters()} == {torch.bfloat16}
    model.to(torch.float32)
    assert {p.dtype for p in model.teacher.parameters()} == {torch.bfloat16}
    model.to('meta')
    assert {p.device.type for p in model.teacher.parameters()} == {'meta'}
    assert {p.dtype for p in model.teacher.parameters()} == {torch.bfloat16}


def test_state_dict_prefixes_load_strictly() -> None:
    cfg = tiny.distiller(
        objectives=dict(
            pixel=dict(loss=dict(type='FeatureL1Loss'), on='feat', connectors=dict(student='auto'))
        )
    )
    source, target = tiny.build(cfg), tiny.build(cfg)
    state = source.state_dict()
    assert {key.split('.')[0] + '.' + key.split('.')[1] for key in state} == {
        'students.student',
        'objectives.pixel',
    }
    assert 'objectives.pixel.connectors.student.conv.weight' in state
    target.load_state_dict(state, strict=True)
    assert all(torch.equal(value, state[key]) for key, value in target.state_dict().items())


# ---------------------------------------------------------------------- weights


def test_init_cfg_runs_and_a_checkpoint_wins_over_it(tmp_path: Path) -> None:
    constant = dict(type='Constant', val=0.25, layer='Conv2d')
    net = tiny.segmentor(4)
    net['backbone']['init_cfg'] = constant
    model = tiny.build(tiny.distiller(student=dict(model=net)))
    assert (
        model.student.backbone.stem[0].weight == 0.25
    ).all()  # mmengine does not descend into torch's ModuleDict
    trained = MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'})
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / 'student.pth')
    model = tiny.build(
        tiny.distiller(student=dict(model=net, checkpoint=str(tmp_path / 'student.pth')))
    )
    assert all(
        torch.equal(value, trained.state_dict()[key])
        for key, value in model.student.state_dict().items()
    )
    assert model.student.is_init


@pytest.mark.bad_input
def test_stages_that_run_in_opposite_directions() -> None:
    """A connector and a resize make any two maps fit."""
    fine, coarse = 'backbone[0]', 'backbone[3]'
    loss = dict(loss=dict(type='FeatureMatchingLoss'), connectors=dict(student='auto'))

    def made(teacher: dict[str, str]) -> Any:
        config = tiny.distiller(
            taps={}, objectives=dict(one=dict(loss, on='one'), two=dict(loss, on='two'))
        )
        config['student']['taps'] = dict(one=fine, two=coarse)
        config['teacher']['taps'] = teacher
        return tiny.build(config)

    made(dict(one=fine, two=coarse))
    made(dict(one=fine, two=fine))
    said = "objectives 'one' and 'two' compare maps of student.backbone with 256 and 64 places with"
    with pytest.raises(ValueError, match=said):
        made(dict(one=coarse, two=fine))


def test_a_second_training_begins_with_what_was_learned(tmp_path: Path) -> None:
    """mmengine initialises before every training; a student's checkpoint is its first start."""
    begun = MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'})
    torch.save(begun.state_dict(), tmp_path / 'student.pth')
    student = dict(model=tiny.segmentor(4), checkpoint=str(tmp_path / 'student.pth'))
    model = tiny.build(tiny.distiller(student=student))
    model.init_weights()
    model.train_step(tiny.batch(), tiny.sgd(model, lr=0.5))
    learned = {key: one.clone() for key, one in model.student.state_dict().items()}
    assert any(not torch.equal(one, begun.state_dict()[key]) for key, one in learned.items())
    model.init_weights()
    now = model.student.state_dict()
    assert all(torch.equal(one, now[key]) for key, one in learned.items())


def test_init_weights_leaves_the_teacher(tmp_path: Path) -> None:
    trained = MODELS.build({**tiny.segmentor(8), '_scope_': 'mmseg'})
    torch.save(trained.state_dict(), tmp_path / 'teacher.pth')
    net = tiny.segmentor(8)
    net['backbone']['init_cfg'] = dict(type='Constant', val=0.25, layer='Conv2d')
    model = tiny.build(
        tiny.distiller(teacher=dict(model=net, checkpoint=str(tmp_path / 'teacher.pth')))
    )
    assert all(
        torch.equal(value, trained.state_dict()[key])
        for key, value in model.teacher.state_dict().items()
    )


def test_a_run_of_mmkd_serves_as_the_next_teacher(tmp_path: Path) -> None:
    first = tiny.build(tiny.distiller())
    torch.save(dict(state_dict=first.state_dict()), tmp_path / 'run.pth')
    second = tiny.build(
        tiny.distiller(teacher=dict(model=tiny.segmentor(4), checkpoint=str(tmp_path / 'run.pth')))
    )
    data = tiny.batch()
    x = first.data_preprocessor(data, True)['inputs']
    torch.testing.assert_close(second.teacher(x), first.student.eval()(x))


# ---------------------------------------------------------------------- the student's own answers


@pytest.mark.parametrize('mode', ['predict', 'tensor'])
def test_answers_are_the_students_own(mode: str) -> None:
    model = tiny.build(tiny.distiller()).eval()
    data = model.data_preprocessor(tiny.batch(), False)
    got, own = (
        net(data['inputs'], copy.deepcopy(data['data_samples']), mode=mode)
        for net in (model, model.student)
    )
    if mode == 'tensor':
        assert torch.equal(got, own)
        assert torch.equal(model(data['inputs']), own)  # as mmengine: the default mode
    else:
        for a, b in zip(got, own, strict=True):
            assert torch.equal(a.seg_logits.data, b.seg_logits.data)
            assert torch.equal(a.pred_sem_seg.data, b.pred_sem_seg.data)


def test_val_step_is_the_students() -> None:
    model = tiny.build(tiny.distiller()).eval()
    for got, own in zip(
        model.val_step(tiny.batch()), model.student.val_step(tiny.batch()), strict=True
    ):
        assert torch.equal(got.seg_logits.data, own.seg_logits.data)


def test_several_students() -> None:
    model = tiny.build(peers()).eval()
    assert list(model.students) == ['peer1', 'peer2']
    x = model.data_preprocessor(tiny.batch(), False)['inputs']
    assert torch.equal(model(x), model.students['peer1'](x))
    assert {key.split('.')[1] for key in model.state_dict()} == {'peer1', 'peer2'}
    chosen = tiny.build(peers(predict_with='peer2')).eval()
    assert torch.equal(chosen(x), chosen.students['peer2'](x))
    assert not torch.equal(chosen(x), chosen.students['peer1'](x))
    logs = model.train().train_step(tiny.batch(), tiny.sgd(model))
    assert set(logs) == {
        f'{peer}.{head}.{key}'
        for peer in ('peer1', 'peer2')
        for head in ('decode', 'aux')
        for key in ('loss_ce', 'acc_seg')
    } | {'first.loss', 'second.loss', 'loss'}
    parts = sum(value for key, value in logs.items() if 'loss' in key and key != 'loss')
    torch.testing.assert_close(logs['loss'], parts)
    with pytest.raises(
        KeyError,
        match=r"there are 2 students \(\['peer1', 'peer2'\]\): use "
        r'distiller.students\[name\]',
    ):
        _ = model.student
    with pytest.raises(
        KeyError, match=r'there are 0 teachers \(\[\]\): use distiller.teachers\[name\]'
    ):
        _ = model.teacher


def test_an_ensemble_of_teachers_by_glob() -> None:
    class Spread(nn.Module):
        def forward(self, student: Tensor, teachers: Tensor) -> Tensor:
            self.shape = teachers.shape
            return (student - teachers.mean(0)).square().mean()

    teachers = {f't{i}': dict(model=tiny.segmentor(4 * i), allow_untrained=True) for i in (1, 2, 3)}
    cfg = tiny.distiller(
        teachers=teachers,
        objectives=dict(
            spread=dict(loss=Spread(), reads=dict(student='student.logits', teachers='t*.logits'))
        ),
    )
    del cfg['teacher']
    model = tiny.build(cfg)
    data = model.data_preprocessor(tiny.batch(), True)
    record, _ = model.observe(**data)
    got = model.objectives['spread'](record)['spread.loss']
    assert model.objectives['spread'].loss.shape == (3, 2, 11, 8, 8)
    with torch.no_grad():
        mean = sum(model.teachers[name](data['inputs']) for name in teachers) / 3
    torch.testing.assert_close(got, (record['student']['logits'] - mean).square().mean())


@pytest.mark.parametrize('weight', [0.0, 0.25])
def test_the_task_weight_scales_the_students_own_losses(weight: float) -> None:
    full, part = (
        tiny.build(
            tiny.distiller(student=dict(model=tiny.segmentor(4, dropout=0.0)), task_weight=w)
        )
        for w in (1.0, weight)
    )
    part.load_state_dict(full.state_dict())
    for name, teacher in part.teachers.items():
        teacher.load_state_dict(full.teachers[name].state_dict())
    data = full.data_preprocessor(tiny.batch(), True)
    got, whole = (model(**data, mode='loss') for model in (part, full))
    for key, value in whole.items():
        own = key in ('decode.loss_ce', 'aux.loss_ce')
        torch.testing.assert_close(got[key], weight * value if own else value)
    if weight == 0:
        part.parse_losses(got)[0].backward()
        # the auxiliary head is read by no objective: what would train it counts for nothing
        assert all(not p.grad.any() for p in part.student.auxiliary_head.parameters())
        assert part.student.decode_head.conv_seg.weight.grad.any()


def test_a_task_that_is_left_out_may_be_nan() -> None:
    """As torch's mean is over labels of which none counts."""
    model = tiny.build(tiny.distiller(task_weight=0.0))
    head = model.student.decode_head
    head.loss_by_feat = lambda *_: dict(loss_ce=torch.tensor(float('nan')))
    logs = model.train_step(tiny.batch(), tiny.sgd(model))
    assert logs['loss'].isfinite()
    assert logs['decode.loss_ce'] == 0


def test_the_total_is_logged_where_a_student_calls_its_own_loss_so() -> None:
    """As every classifier of mmpretrain does."""
    model = tiny.build(
        dict(
            type='mmkd.Distiller',
            student=dict(model=classifier()),
            teacher=dict(model=classifier(4), allow_untrained=True),
            taps=dict(logits='head.fc'),
            objectives=dict(kd=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=100.0)),
        )
    )
    run = model.student.forward

    def forward(*given: Any, **named: Any) -> Any:
        said = run(*given, **named)
        return dict(loss=said['loss_cls']) if isinstance(said, dict) else said

    model.student.forward = forward
    logs = model.train_step(images(4), tiny.sgd(model))
    assert float(logs['loss']) == pytest.approx(float(logs['student.loss'] + logs['kd.loss']))
    assert logs['kd.loss'] > 0


@pytest.mark.bad_input
def test_members_that_share_a_module_are_refused() -> None:
    student, teacher = (MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'}) for _ in range(2))
    student.backbone = teacher.backbone
    for model, part in ((student, 'backbone'), (teacher, 'itself')):
        members = dict(student=dict(model=model), teacher=dict(model=teacher))
        with pytest.raises(ValueError, match=f"share the module '{part}'.*Mend: a model each"):
            tiny.build(tiny.distiller(**members))


def test_a_teacher_that_says_nothing_of_pixels_sees_those_of_the_student() -> None:
    """mmengine gives it a preprocessor of nothing, which is not to be undone."""
    bare = tiny.segmentor(4)
    del bare['data_preprocessor']
    model = tiny.build(
        tiny.distiller(
            student=dict(model=dict(bare)),
            teacher=dict(model=bare, allow_untrained=True),
            data_preprocessor=tiny.preprocessor(),
        )
    )
    given = model.data_preprocessor(tiny.batch(), True)
    record, _ = model.observe(**given)
    assert model.runs['teacher'].prepare(record.batch).equal(given['inputs'])


@pytest.mark.parametrize('weight', [-1.0, float('nan'), '1', True])
def test_a_bad_task_weight_is_refused(weight: Any) -> None:
    with pytest.raises(ValueError, match=r'task_weight must be a finite number, 0 or above, got'):
        tiny.build(tiny.distiller(task_weight=weight))


# ---------------------------------------------------------------------- data preprocessor and
# scopes


def test_the_data_preprocessor_is_the_students_or_given() -> None:
    model = tiny.build(tiny.distiller())
    assert model.data_preprocessor is model.student.data_preprocessor
    for given in (
        tiny.preprocessor(32, mean=1.0, std=2.0),
        MODELS.build({**tiny.preprocessor(32, mean=1.0, std=2.0), '_scope_': 'mmseg'}),
    ):
        model = tiny.build(tiny.distiller(data_preprocessor=given))
        data = model.data_preprocessor(tiny.batch(size=32), True)
        raw = torch.stack(tiny.batch(size=32)['inputs'])[:, [2, 1, 0]].float()
        torch.testing.assert_close(data['inputs'], (raw - 1) / 2)


def test_a_teacher_of_another_normalisation_sees_its_own() -> None:
    net = tiny.segmentor(
        8, data_preprocessor=tiny.preprocessor(mean=127.0, std=64.0, bgr_to_rgb=False)
    )
    model = tiny.build(tiny.distiller(teacher=dict(model=net, allow_untrained=True)))
    data = tiny.batch()
    got = model.observe(**model.data_preprocessor(data, True))[0]['teacher']['logits']
    own = model.teacher.data_preprocessor(tiny.batch(), True)['inputs']
    with torch.no_grad():
        torch.testing.assert_close(got, model.teacher(own), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('active', ['mmseg', 'mmkd', 'mmengine'])
def test_bare_names_build_under_any_default_scope(active: str) -> None:
    cfg = tiny.distiller(data_preprocessor=tiny.preprocessor(), **TWO_PHASES)
    cfg['objectives']['pixel']['connectors'] = dict(
        student=dict(type='Connector', in_channels=11, out_channels=11)
    )
    with DefaultScope.overwrite_default_scope(active):
        model = tiny.build(cfg)
    assert type(model.student) is EncoderDecoder
    assert model.objectives['holistic'].loss.critic is not None


def test_a_config_survives_dump_and_reload(tmp_path: Path) -> None:
    Config(dict(default_scope='mmseg', model=tiny.distiller(**TWO_PHASES))).dump(
        str(tmp_path / 'run.py')
    )
    cfg = Config.fromfile(tmp_path / 'run.py')
    before = cfg.to_dict()
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    assert cfg.to_dict() == before
    torch.manual_seed(0)
    for key, value in MODELS.build(tiny.distiller(**TWO_PHASES)).state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


# ---------------------------------------------------------------------- connectors


def test_auto_connectors_are_printed_and_trained() -> None:
    cfg = tiny.distiller(
        taps=dict(logits='decode_head.conv_seg', feat='backbone.layer4'),
        objectives=dict(hint=dict(loss=Hint(), on='feat', connectors=dict(student='auto'))),
    )
    cfg['teacher']['input_size'] = (96, 96)
    with mock.patch('mmkd.distiller.distiller.print_log') as log:
        model = tiny.build(cfg)
    log.assert_called_once_with(
        'mmkd: hint: student (32, 8, 8) -> (64, 12, 12) by 1x1 convolution and bilinear resize',
        logger='current',
    )
    connector = model.objectives['hint'].connectors['student']
    data = model.data_preprocessor(tiny.batch(), True)
    record, _ = model.observe(**data)
    x = F.interpolate(
        F.conv2d(record['student']['feat'], connector.conv.weight, connector.conv.bias),
        size=(12, 12),
        mode='bilinear',
        align_corners=False,
    )
    torch.testing.assert_close(
        model.objectives['hint'](record)['hint.loss'],
        (x - record['teacher']['feat']).square().mean(),
    )
    before = connector.conv.weight.clone()
    optim = tiny.sgd(model)
    assert id(connector.conv.weight) in {
        id(p) for group in optim.param_groups for p in group['params']
    }
    model.train_step(tiny.batch(), optim)
    assert not torch.equal(connector.conv.weight, before)


class Hint(nn.Module):
    needs = ('channels', 'size')

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean()


# ---------------------------------------------------------------------- the probe


def probe_again(model: Distiller) -> list[str]:
    with probing():
        record = Record(probe_batch(model.students, model.data_preprocessor))
        for name, run in model.runs.items():
            run.check_noises(record.batch)
            record.add(name, run.probe(record.batch))
    return [line for one in model.objectives.values() for line in try_objective(one, record)]


@pytest.mark.parametrize('overrides', [{}, TWO_PHASES], ids=['one phase', 'two phases'])
def test_the_probe_leaves_no_trace(overrides: dict) -> None:
    model = tiny.build(tiny.distiller(**overrides))
    model.student.backbone.layer1.eval()  # modes are mixed
    modes = [m.training for m in model.modules()]
    state = {**model.state_dict(), **dict(model.named_buffers())}
    before, weights = {k: v.clone() for k, v in state.items()}, [p.grad for p in model.parameters()]
    random, seed = torch.get_rng_state(), torch.initial_seed()
    assert probe_again(model) == []  # everything was fitted when it was built
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.initial_seed() == seed
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in state.items())
    assert [p.grad for p in model.parameters()] == weights == [None] * len(weights)
    assert hooks(model) == hooks(model.teacher) == 0


def test_the_probe_restores_when_it_raises() -> None:
    model = tiny.build(tiny.distiller())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    with (
        mock.patch.object(model.student.auxiliary_head, 'loss', side_effect=RuntimeError('broken')),
        pytest.raises(RuntimeError, match='broken'),
    ):
        probe_again(model)
    assert all(m.training for m in model.student.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_probe_restores_buffers_that_move_in_eval_mode() -> None:
    class Counting(Hint):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer('written', torch.zeros(()))
            self.register_buffer('replaced', torch.zeros(()))
            self.register_buffer('empty', None)

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            self.written += 1
            self.replaced = self.replaced + 1
            return super().forward(student, teacher)

    model = tiny.build(tiny.distiller(objectives=dict(hint=dict(loss=Counting(), on='logits'))))
    loss = model.objectives['hint'].loss
    assert (loss.written, loss.replaced) == (0, 0)
    model.train_step(tiny.batch(), tiny.sgd(model))
    assert (loss.written, loss.replaced) == (1, 1)
    probe_again(model)
    assert (loss.written, loss.replaced) == (1, 1)


def test_building_draws_no_random_number_for_the_probe() -> None:
    torch.manual_seed(0)
    MODELS.build(tiny.distiller())
    after = torch.rand(1)
    torch.manual_seed(0)
    with (
        mock.patch('mmkd.distiller.assembly.probe_members'),
        mock.patch('mmkd.distiller.assembly.fit_objectives'),
    ):
        MODELS.build(tiny.distiller())
    assert torch.equal(torch.rand(1), after)


def test_critics_and_connectors_follow_the_seed_of_the_run() -> None:
    def critic(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return (
            MODELS.build(tiny.distiller(**TWO_PHASES))
            .objectives['holistic']
            .loss.critic.score.weight
        )

    assert torch.equal(critic(1), critic(1))
    assert not torch.equal(critic(1), critic(2))


@pytest.mark.parametrize(
    ('size', 'shape'),
    [(dict(size=(48, 32)), (48, 32)), (dict(size=None, size_divisor=32), (64, 64))],
)
def test_the_probe_runs_at_the_size_of_the_batches(size: dict, shape: tuple) -> None:
    seen = []

    class Spy(Hint):
        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            seen.append(tuple(student.shape[2:]))
            return super().forward(student, teacher)

    net = tiny.segmentor(4, data_preprocessor=tiny.preprocessor() | size)
    MODELS.build(
        tiny.distiller(student=dict(model=net), objectives=dict(hint=dict(loss=Spy(), on='logits')))
    )
    assert seen == [(shape[0] // 8, shape[1] // 8)]


def test_auxiliary_heads_of_the_student_can_be_tapped() -> None:
    """They run in mode='loss' alone, which is what the probe runs of a student."""
    cfg = tiny.distiller(
        student=dict(model=tiny.segmentor(4), taps=dict(logits='auxiliary_head.conv_seg')),
        objectives=tiny.objectives(pair=None),
    )
    model = tiny.build(cfg)
    data = model.data_preprocessor(tiny.batch(), True)
    record, _ = model.observe(**data)
    assert record['student']['logits'].shape == (2, 11, 8, 8)
    loss = model.objectives['pixel'](record)['pixel.loss']
    loss.backward()
    assert model.student.auxiliary_head.conv_seg.weight.grad.abs().sum() > 0
    assert model.student.decode_head.conv_seg.weight.grad is None


# ---------------------------------------------------------------------- what the recipes tap


def test_the_input_of_the_classifier_is_after_dropout_and_the_bottleneck_before() -> None:
    net = MODELS.build({**tiny.segmentor(8, dropout=0.5), '_scope_': 'mmseg'}).train()
    x = net.backbone(torch.randn(4, 3, 32, 32))
    taps = Taps(net, dict(feat='decode_head.bottleneck', last='decode_head.conv_seg:input'))
    with taps.recording() as seen:
        net.decode_head.forward(x)
    before, after = taps.read(seen).values()
    dropped = (after == 0).all(3).all(2) & (before != 0).any(3).any(2)
    assert 0.2 < dropped.float().mean() < 0.8  # whole channels
    torch.testing.assert_close(after[~dropped], 2 * before[~dropped])
    assert (
        MODELS.build({**tiny.segmentor(8, dropout=0.0), '_scope_': 'mmseg'}).decode_head.dropout
        is None
    )


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'configs/structured_kd').glob('*.py')), ids=lambda p: p.stem
)
def test_recipes_tap_the_feature_before_dropout(path: Path) -> None:
    cfg = Config.fromfile(path).model
    if cfg.type != 'mmkd.Distiller':
        return
    shared = cfg.get('taps', {})
    for member in (cfg.student, cfg.teacher):
        taps = {**shared, **member.get('taps', {})}
        assert taps['logits'] == 'decode_head.conv_seg'
        if any(o.get('on') == 'feat' for o in cfg.objectives.values()):
            assert taps['feat'].split('.')[-1] in ('bottleneck', 'sep_bottleneck', 'backbone[0]')


# ---------------------------------------------------------------------- precision of the teacher in
# a whole step


def losses_with(**options: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    model = tiny.build(
        tiny.distiller(teacher=dict(model=tiny.segmentor(8), allow_untrained=True, **options))
    )
    torch.manual_seed(2)
    return model.train_step(tiny.batch(), tiny.sgd(model))


@pytest.mark.parametrize(
    ('options', 'tolerance'),
    [
        (dict(precision='bf16'), 2e-2),
        (dict(precision='fp16'), 2e-3),
        (dict(channels_last=True), 1e-5),
        (dict(fuse_bn=True), 1e-5),
    ],
    ids=lambda o: str(o),
)
def test_teacher_options_change_the_losses_within_tolerance(
    options: dict, tolerance: float
) -> None:
    plain, got = losses_with(), losses_with(**options)
    assert plain.keys() == got.keys()
    for key in ('pixel.loss', 'pair.loss'):
        torch.testing.assert_close(got[key], plain[key], rtol=tolerance, atol=tolerance)
    assert torch.equal(got['decode.loss_ce'], plain['decode.loss_ce'])


def test_compiled_teacher_in_a_whole_step() -> None:
    """The probe runs first, uncompiled; the taps of the compiled one fire in training all the
    same.
    """
    compiled: list[Callable] = []
    with mock.patch('torch.compile', side_effect=lambda f, **_: compiled.append(f) or f):
        plain, got = losses_with(), losses_with(compile=True)
    assert len(compiled) == 1
    assert all(torch.equal(got[key], plain[key]) for key in plain)
