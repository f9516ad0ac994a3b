"""Objectives: what they read, what carries gradient, what they refuse, and what connectors='auto'
inserts.
"""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmkd.connectors import Connector
from mmkd.distiller.objectives.objective import (
    Objective,
    build_objective,
    check_name,
    refuse_no_objectives,
)
from mmkd.distiller.objectives.references import references
from mmkd.losses import AdversarialLoss, Loss, PixelWiseKLLoss, pixel_wise_kl
from mmkd.losses.roles import Map
from mmkd.structures.batch import Batch

KNOWN = dict(student=['logits', 'feat'], teacher=['logits', 'feat'], t1=['logits'], t2=['logits'])


class Echo(nn.Module):
    """A loss of a user's own: keeps what it was given."""

    def forward(
        self,
        student: Any,
        teacher: Any = None,
        student_global: Any = None,
        mask: Any = None,
        labels: Any = None,
        image: Any = None,
        teachers: Any = None,
        samples: Any = None,
    ) -> Tensor:
        self.got = {k: v for k, v in locals().items() if k not in ('self',) and v is not None}
        first = student[0] if isinstance(student, list) else student
        return first.sum()


class Three(nn.Module):
    """A loss without defaults."""

    def forward(self, student: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        return ((student - target) * scale).square().mean()


def record(**maps: Any) -> dict:
    """Member.tap as member_tap -> tensor; the student's need gradient."""
    labels = torch.tensor([[[1, 255], [3, 2]]]).repeat_interleave(4, 1).repeat_interleave(4, 2)
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    out: dict = {'batch': Batch(torch.randn(1, 3, 8, 8), [sample])}
    for key, value in maps.items():
        member, tap = key.split('_')
        out.setdefault(member, {})[tap] = value
    return out


def maps(student: tuple = (1, 4, 2, 2), teacher: tuple = (1, 4, 2, 2)) -> dict:
    torch.manual_seed(3)
    return record(
        student_logits=torch.randn(student, requires_grad=True),
        teacher_logits=torch.randn(teacher),
        t1_logits=torch.randn(teacher),
        t2_logits=torch.randn(teacher, requires_grad=True),
    )


def objective(
    loss: Any = None, known: dict | None = None, name: str = 'pixel', **kwargs: Any
) -> Objective:
    loss = dict(type='PixelWiseKLLoss') if loss is None else loss
    return Objective(name, loss, KNOWN if known is None else known, **(kwargs or dict(on='logits')))


def echo(rec: dict, **kwargs: Any) -> dict:
    one = objective(Echo(), **kwargs)
    one(rec)
    return one.loss.got


# ---------------------------------------------------------------------- values


def test_value_is_weight_times_loss() -> None:
    rec = maps()
    expected = pixel_wise_kl(rec['student']['logits'], rec['teacher']['logits'], tau=2.0)
    got = objective(
        dict(type='PixelWiseKLLoss', tau=2.0, loss_weight=3.0), on='logits', weight=0.25
    )(rec)
    assert list(got) == ['pixel.loss']
    torch.testing.assert_close(got['pixel.loss'], 0.75 * expected)  # both multipliers apply


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='PixelWiseKLLoss'),
        dict(type='mmkd.PixelWiseKLLoss'),
        dict(type=PixelWiseKLLoss),
        PixelWiseKLLoss(),
    ],
    ids=str,
)
def test_losses_by_name_class_and_module(loss: Any) -> None:
    rec = maps()
    expected = pixel_wise_kl(rec['student']['logits'], rec['teacher']['logits'])
    torch.testing.assert_close(objective(loss)(rec)['pixel.loss'], expected)


def test_diagnostics_are_logged_and_not_weighted() -> None:
    class Watched(Echo):
        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            self.diagnostics = {'accuracy': torch.tensor(0.5)}
            return student.sum()

    rec = maps()
    found = objective(Watched(), on='logits', weight=3.0)(rec)
    assert list(found) == ['pixel.loss', 'pixel.accuracy']
    assert found['pixel.accuracy'].item() == 0.5
    torch.testing.assert_close(found['pixel.loss'], 3 * rec['student']['logits'].sum())


def test_a_loss_builds_itself_from_what_it_reads() -> None:
    class Built(Echo):
        def build(self, student: Tensor, teacher: Tensor) -> str:
            self.scale = nn.Parameter(torch.ones(student.shape[1], requires_grad=True))
            return f'{student.shape[1]} scales'

    one = objective(Built(), on='logits')
    assert one.fit(maps()) == ['pixel: 4 scales']
    assert dict(one.named_parameters()).keys() == {'loss.scale'}


def test_on_is_short_for_two_reads() -> None:
    assert objective().reads == dict(student='student.logits', teacher='teacher.logits')
    assert objective(
        on='logits', reads=dict(teacher='t1.logits', mask='batch.valid')
    ).reads == dict(teacher='t1.logits', mask='batch.valid', student='student.logits')


def test_only_student_arguments_carry_gradient() -> None:
    rec = maps()
    rec['student']['feat'] = torch.randn(1, 2, requires_grad=True)
    got = echo(
        rec,
        reads=dict(
            student='student.logits',
            student_global='student.feat',
            teacher='t2.logits',
            labels='batch.labels',
            image='batch.inputs',
            teachers='t*.logits',
        ),
    )
    assert got['student'] is rec['student']['logits']
    assert got['student_global'] is rec['student']['feat']
    assert got['teacher'].data_ptr() == rec['t2']['logits'].data_ptr()
    assert [key for key, value in got.items() if value.requires_grad] == [
        'student',
        'student_global',
    ]
    peers = objective(
        Echo(), reads=dict(student='student.logits', teacher='student.feat')
    )  # a peer teaches as well
    peers(rec)
    assert not peers.loss.got['teacher'].requires_grad


def test_lists_and_globs_are_stacked_in_order() -> None:
    rec = maps()
    expected = torch.stack(
        [rec[name]['logits'] for name in ('teacher', 't1', 't2')]
    ).detach()  # (M, N, C, H, W)
    for reads in (
        't*.logits',
        ['teacher.logits', 't1.logits', 't2.logits'],
        ['teacher.logits', 't?.logits'],
    ):
        got = echo(rec, reads=dict(student='student.logits', teachers=reads))['teachers']
        assert torch.equal(got, expected)
        assert not got.requires_grad
    assert objective(Echo(), reads=dict(student='student.logits', teachers='t?.logits')).reads[
        'teachers'
    ] == ['t1.logits', 't2.logits']


def test_a_stack_of_students_keeps_its_gradient() -> None:
    rec = record(
        p1_x=torch.ones(1, 2, requires_grad=True), p2_x=torch.ones(1, 2, requires_grad=True)
    )
    one = objective(Echo(), dict(p1=['x'], p2=['x']), reads=dict(student='p*.x'))
    one(rec)['pixel.loss'].backward()
    assert [rec[p]['x'].grad.tolist() for p in ('p1', 'p2')] == [[[1.0, 1.0]], [[1.0, 1.0]]]


def test_teachers_of_two_precisions_are_stacked_in_the_wider() -> None:
    rec = maps()
    rec['t1']['logits'] = rec['t1']['logits'].bfloat16()
    got = echo(rec, reads=dict(student='student.logits', teachers='t?.logits'))['teachers']
    assert got.dtype == torch.float32


def test_every_call_of_a_module_comes_as_a_list() -> None:
    calls = [torch.ones(1, 2, requires_grad=True), torch.ones(1, 3, requires_grad=True)]
    rec = record(student_logits=calls, teacher_logits=[c * 2 for c in calls])
    got = echo(rec, on='logits')
    assert got['student'] == calls
    assert [t.requires_grad for t in got['teacher']] == [False, False]


def test_reads_of_the_batch() -> None:
    rec = maps(student=(1, 4, 4, 4))
    got = echo(
        rec,
        reads=dict(
            student='student.logits',
            mask='batch.valid',
            labels='batch.labels',
            image='batch.inputs',
            samples='batch.data_samples',
        ),
    )
    assert got['labels'].tolist() == [
        [[1, 1, 255, 255]] * 2 + [[3, 3, 2, 2]] * 2
    ]  # 8×8 by nearest at the map's 4×4
    assert got['mask'].tolist() == [[[True, True, False, False]] * 2 + [[True] * 4] * 2]
    assert got['image'] is rec['batch'].inputs
    assert got['samples'] is rec['batch'].data_samples


def test_the_mask_leaves_out_what_is_void() -> None:
    rec = maps(student=(1, 4, 2, 2))
    got = objective(on='logits', reads=dict(mask='batch.valid'))(rec)['pixel.loss']
    s, t = rec['student']['logits'], rec['teacher']['logits']
    kl = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1)[0]
    torch.testing.assert_close(got, (kl[0, 0] + kl[1, 0] + kl[1, 1]) / 3)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (
            dict(on='logits', weight=0),
            ValueError,
            "weight of objective 'pixel' must be a finite number above 0, got 0",
        ),
        (dict(on='logits', weight=float('nan')), ValueError, 'finite number above 0, got nan'),
        (dict(on='logits', weight=float('inf')), ValueError, 'finite number above 0, got inf'),
        (dict(on='logits', weight=-1.0), ValueError, 'finite number above 0, got -1.0'),
        (dict(on='logits', weight='1'), ValueError, "finite number above 0, got '1'"),
        (dict(on='logits', weight=True), ValueError, 'finite number above 0, got True'),
        (
            dict(on='logit'),
            KeyError,
            r"objective 'pixel': student: member 'student' has no tap 'logit'; did you mean "
            r"'logits'\? \(its taps: \['feat', 'logits'\]\). Mend: taps=dict\(logit=",
        ),
        (
            dict(reads=dict(student='studnet.logits')),
            KeyError,
            "names no member; did you mean 'student'",
        ),
        (dict(reads=dict(student='x*.logits')), KeyError, r"'x\*.logits' names no member"),
        (
            dict(reads=dict(student='student.logits', teacher='t*.feat')),
            KeyError,
            "member 't1' has no tap 'feat'",
        ),
        (
            dict(reads=dict(student='logits')),
            ValueError,
            "a reference is '<member>.<tap>' or 'batch.<name>', got 'logits'",
        ),
        (
            dict(reads=dict(student=3)),
            ValueError,
            "a reference is '<member>.<tap>' or 'batch.<name>', got 3",
        ),
        (
            dict(reads=dict(student=[])),
            ValueError,
            r"a list stacks taps of members \('<member>.<tap>'\), got \[\]",
        ),
        (dict(reads=dict(student=['batch.inputs'])), ValueError, 'a list stacks taps of members'),
        (
            dict(reads=dict(mask='batch.vaild'), on='logits'),
            KeyError,
            r"the batch offers \['inputs', 'labels', 'valid', 'labelled', 'unlabelled', "
            r"'repeated', 'padding', 'tokens', 'data_samples'\], got "
            r"'vaild'; did you mean 'valid'",
        ),
        (
            dict(reads={}, weight=1.0),
            ValueError,
            "objective 'pixel' reads nothing. Mend: on='logits'",
        ),
        (
            dict(reads=dict(msak='batch.valid'), on='logits'),
            TypeError,
            "objective 'pixel': PixelWiseKLLoss reads got an unknown key 'msak'; did you mean "
            "'mask'",
        ),
        (
            dict(reads=dict(student='student.logits')),
            TypeError,
            r"PixelWiseKLLoss also needs \['teacher'\]. Mend: on=…",
        ),
        (
            dict(on='logits', connectors=dict(studnet='auto')),
            KeyError,
            "connectors name 'studnet', which it does not read; did you mean 'student'",
        ),
        (
            dict(on='logits', connectors=dict(mask='auto')),
            KeyError,
            r"connectors name 'mask', which it does not read \(it reads \['student', 'teacher'\]\)",
        ),
    ],
)
def test_bad_arguments(kwargs: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        objective(**kwargs)
    assert re.search(message, raised.value.args[0]), raised.value.args[0]


@pytest.mark.parametrize(
    ('loss', 'error', 'message'),
    [
        (
            dict(type='PixelWiseKLLos'),
            KeyError,
            "objective 'pixel': loss: 'PixelWiseKLLos' is not registered; did you mean "
            "'PixelWiseKLLoss'",
        ),
        (
            dict(type='mmkd.PixelwiseKLLoss'),
            KeyError,
            "'mmkd.PixelwiseKLLoss' is not registered; did you mean 'PixelWiseKLLoss'",
        ),
        (
            dict(type='PixelWiseKLLoss', tua=2.0),
            TypeError,
            "objective 'pixel': loss PixelWiseKLLoss got an unknown key 'tua'; did you mean 'tau'",
        ),
        (
            dict(type='PixelWiseKLLoss', loss_weight=0),
            ValueError,
            'loss_weight must be a finite number above 0, got 0',
        ),
        (
            'PixelWiseKLLoss',
            TypeError,
            r"loss must be dict\(type='…', …\) or a module, got 'PixelWiseKLLoss'",
        ),
        (
            dict(tau=2.0),
            TypeError,
            r"loss must be dict\(type='…', …\) or a module, got \{'tau': 2.0\}",
        ),
    ],
)
def test_bad_losses(loss: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        objective(loss)
    assert re.search(message, raised.value.args[0]), raised.value.args[0]


def test_missing_arguments_are_all_named() -> None:
    with pytest.raises(
        TypeError,
        match=r"objective 'pixel': Three also needs \['target', 'scale'\]. Mend: on=…, or "
        r'reads=dict\(target=…\)',
    ):
        objective(Three(), reads=dict(student='student.logits'))


def test_on_needs_members_of_these_names() -> None:
    with pytest.raises(KeyError) as raised:
        objective(known=dict(peer1=['logits'], peer2=['logits']))
    assert (
        "on='logits' needs members named 'student' and 'teacher', there are ['peer1'"
        in raised.value.args[0]
    )


def test_an_objective_that_nothing_could_learn_from() -> None:
    class Compare(nn.Module):
        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            return (prediction - target).square().mean()

    with pytest.raises(
        ValueError,
        match=r"Compare reads \['prediction', 'target'\], but only an argument 'student' or "
        "'student_…' carries gradient, so nothing would learn from it",
    ):
        objective(Compare(), reads=dict(prediction='student.logits', target='teacher.logits'))
    learner = Compare()
    learner.own = nn.Parameter(torch.ones(()))  # such a loss learns by itself
    assert objective(
        learner, reads=dict(prediction='student.logits', target='teacher.logits')
    ).reads


def test_a_loss_with_any_keyword_takes_any_read() -> None:
    class Free(nn.Module):
        def forward(self, student: Tensor, **others: Tensor) -> Tensor:
            return student.sum() + others['whatever'].sum()

    rec = maps()
    got = objective(Free(), reads=dict(student='student.logits', whatever='teacher.logits'))(rec)[
        'pixel.loss'
    ]
    torch.testing.assert_close(got, rec['student']['logits'].sum() + rec['teacher']['logits'].sum())


def test_no_gradient_names_what_froze_it() -> None:
    rec = maps()
    rec['student']['logits'] = rec['student']['logits'].detach()
    message = (
        r"objective 'pixel': student='student.logits' carries no gradient, so the student would "
        r'learn nothing from it. The layer is frozen \(frozen_stages, requires_grad=False\), the '
        r'backbone checkpoints its activations \(with_cp=True\), or the reference is a teacher. '
        r'Mend: tap a trained layer, or with_cp=False'
    )
    with pytest.raises(RuntimeError, match=message):
        objective()(rec)
    with pytest.raises(RuntimeError, match="student='t1.logits' carries no gradient"):
        objective(reads=dict(student='t1.logits', teacher='teacher.logits'))(rec)
    with pytest.raises(
        RuntimeError, match=r"student=\['t1.logits', 't2.logits'\] carries no gradient"
    ):
        objective(Echo(), reads=dict(student=['t1.logits', 't2.logits']))(rec)
    with torch.no_grad():
        assert objective()(rec)['pixel.loss'] > 0  # without gradients there is nothing to miss


def test_wrong_class_counts_name_objective_taps_shapes_and_mend() -> None:
    with pytest.raises(
        ValueError,
        match=r"objective 'pixel': PixelWiseKLLoss got student='student.logits' \(1, "
        r'4, 2, 2\), '
        r"teacher='teacher.logits' \(1, 19, 2, 2\): student has 4 classes but "
        r'teacher has '
        r'19 .*Mend: members of the same classes, or compare features',
    ):
        objective()(maps(teacher=(1, 19, 2, 2)))


def test_other_map_sizes_name_objective_taps_shapes_and_mend() -> None:
    with pytest.raises(
        ValueError,
        match=r"objective 'pair': PairWiseAffinityLoss got student='student.logits' "
        r'\(1, 4, 2, 2\), '
        r"teacher='teacher.logits' \(1, 4, 4, 4\): student and teacher maps "
        r'differ in size'
        r".* mend: connectors=dict\(student='auto'\)",
    ):
        objective(dict(type='PairWiseAffinityLoss'), name='pair')(maps(teacher=(1, 4, 4, 4)))


def test_stack_of_different_shapes() -> None:
    rec = maps()
    rec['t1']['logits'] = torch.zeros(1, 4, 4, 4)
    with pytest.raises(
        ValueError,
        match=r"objective 'pixel': teachers stacks \['t1.logits', 't2.logits'\], "
        r'whose shapes '
        r'differ: .*\(1, 4, 4, 4\).*\(1, 4, 2, 2\).* Mend: taps of one shape',
    ):
        echo(rec, reads=dict(student='student.logits', teachers='t?.logits'))


def test_labels_for_a_tensor_without_places() -> None:
    rec = maps(student=(1, 4), teacher=(1, 4))
    with pytest.raises(
        ValueError,
        match="objective 'pixel': batch.valid got student='student.logits' .*have places",
    ):
        objective(on='logits', reads=dict(mask='batch.valid'))(rec)


@pytest.mark.parametrize(
    'name',
    [
        'loss',
        'my_loss',
        'pixel.kl',
        'type',
        'train',
        'float',
        'keys',
        'forward',
        'batch',
        'training',
        'init_cfg',
        '1st',
        'a b',
        '',
    ],
)
def test_names_that_the_stack_would_misread(name: str) -> None:
    """Mmengine sums every key with 'loss' in it, and ModuleDict has names of its own."""
    with pytest.raises(
        ValueError, match=f"tap name '{name}': names are identifiers without 'loss' or a dot"
    ):
        check_name(name, 'tap')


def test_allowed_names() -> None:
    for name in ('pixel', 'pair_2', 'Holistic', 'logits', 't1'):
        check_name(name, 'tap')


@pytest.mark.parametrize(
    ('configs', 'error', 'message'),
    [
        ({}, ValueError, 'objectives is empty: a Distiller without objectives is plain training'),
        (
            dict(pixel=dict(on='logits')),
            TypeError,
            r"objective 'pixel' needs loss=dict\(type=…\), got the keys \['on'\]",
        ),
        (
            dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', wieght=2)),
            TypeError,
            "objective 'pixel' got an unknown key 'wieght'; did you mean 'weight'",
        ),
        (
            dict(my_loss=dict(loss=dict(type='PixelWiseKLLoss'), on='logits')),
            ValueError,
            "objective name 'my_loss'",
        ),
    ],
)
def test_build_objectives_refuses(configs: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_all(configs)


def build_all(configs: dict) -> None:
    refuse_no_objectives(configs)
    for name, config in configs.items():
        build_objective(name, config, KNOWN)


def test_references_leave_the_batch_out() -> None:
    assert references(['t1.logits', 't2.logits']) == ['t1.logits', 't2.logits']
    assert references('batch.valid') == []


# ---------------------------------------------------------------------- connectors


@pytest.mark.parametrize(
    ('loss', 'student', 'teacher', 'done', 'shape'),
    [
        (
            'FeatureL1Loss',
            (1, 4, 2, 2),
            (1, 6, 4, 4),
            '(4, 2, 2) -> (6, 4, 4) by 1x1 convolution and bilinear resize',
            (6, 4),
        ),
        (
            'FeatureL1Loss',
            (1, 4, 2, 2),
            (1, 6, 2, 2),
            '(4, 2, 2) -> (6, 2, 2) by 1x1 convolution',
            (6, 4),
        ),
        (
            'PixelWiseKLLoss',
            (1, 4, 4, 4),
            (1, 4, 2, 2),
            '(4, 4, 4) -> (4, 2, 2) by bilinear resize',
            None,
        ),
        (
            'PixelWiseKLLoss',
            (1, 4, 2, 2),
            (1, 4, 2, 2),
            '(4, 2, 2) -> (4, 2, 2) by nothing (the shapes agree)',
            None,
        ),
        (
            'PairWiseAffinityLoss',
            (1, 4, 2, 2),
            (1, 6, 4, 4),
            '(4, 2, 2) -> (4, 4, 4) by bilinear resize',
            None,
        ),
        (
            'PairWiseAffinityLoss',
            (1, 4, 2, 2),
            (1, 6, 2, 2),
            '(4, 2, 2) -> (4, 2, 2) by nothing (the loss needs the same size, no more)',
            None,
        ),
    ],
)
def test_auto_inserts_what_the_loss_needs(
    loss: str, student: tuple, teacher: tuple, done: str, shape: tuple | None
) -> None:
    one, rec = (
        objective(dict(type=loss), on='logits', connectors=dict(student='auto')),
        maps(student, teacher),
    )
    assert one.fit(rec) == [f'pixel: student {done}']
    assert one.fit(rec) == []  # once
    connector = one.connectors['student']
    x = rec['student']['logits']
    if shape is None:
        assert not list(connector.parameters())
    else:
        assert connector.conv.weight.shape == (*shape, 1, 1)
        x = F.conv2d(x, connector.conv.weight, connector.conv.bias)
    if x.shape[2:] != teacher[2:]:
        x = F.interpolate(x, size=teacher[2:], mode='bilinear', align_corners=False)
    expected = one.loss(x, rec['teacher']['logits'])
    got = one(rec)['pixel.loss']
    torch.testing.assert_close(got, expected)
    got.backward()
    assert rec['student']['logits'].grad.abs().sum() > 0
    assert all(p.grad is not None for p in connector.parameters())


def test_auto_of_the_teacher_resizes_but_never_convolves() -> None:
    one = objective(on='logits', connectors=dict(teacher='auto'))
    rec = maps((1, 4, 2, 2), (1, 4, 4, 4))
    rec['teacher']['logits'] = rec['teacher']['logits'].bfloat16()
    assert one.fit(rec) == ['pixel: teacher (4, 4, 4) -> (4, 2, 2) by bilinear resize']
    resized = F.interpolate(
        rec['teacher']['logits'].float(), size=(2, 2), mode='bilinear', align_corners=False
    )
    torch.testing.assert_close(
        one(rec)['pixel.loss'], pixel_wise_kl(rec['student']['logits'], resized)
    )
    with pytest.raises(
        ValueError,
        match="objective 'pixel': teacher has 6 channels, student 4; a connector of "
        'the teacher '
        r"would never be trained. Mend: connectors=dict\(student='auto'\)",
    ):
        objective(dict(type='FeatureL1Loss'), on='logits', connectors=dict(teacher='auto')).fit(
            maps((1, 4, 2, 2), (1, 6, 2, 2))
        )


class Silent(Loss):
    """A loss of a user's own that says nothing of itself."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(student, teacher)


class Plain(nn.Module):
    """The same without the base."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(student, teacher)


@pytest.mark.parametrize('loss', [Silent, Plain])
def test_auto_holds_alike_for_losses_that_say_nothing(loss: type[nn.Module]) -> None:
    one = objective(loss(), on='logits', connectors=dict(student='auto'))
    rec = maps((1, 2, 4, 4), (1, 5, 8, 8))
    assert one.fit(rec) == [
        'pixel: student (2, 4, 4) -> (5, 8, 8) by 1x1 convolution and bilinear resize'
    ]
    connector = one.connectors['student']
    x = F.conv2d(rec['student']['logits'], connector.conv.weight, connector.conv.bias)
    x = F.interpolate(x, size=(8, 8), mode='bilinear', align_corners=False)
    torch.testing.assert_close(
        one(rec)['pixel.loss'], (x - rec['teacher']['logits']).square().mean()
    )


@pytest.mark.parametrize('needs', ['size', ('chanels',), 3])
def test_needs_that_nobody_knows(needs: Any) -> None:
    loss = Plain()
    loss.needs = needs
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"needs of Plain must be a tuple of ('channels', 'size'), got {needs!r}. Mend: needs = "
            "('size',), or () for nothing"
        ),
    ):
        objective(loss, on='logits', connectors=dict(student='auto'))


@pytest.mark.bad_input
def test_a_connector_of_what_is_read_of_the_batch() -> None:
    """Nothing would apply it."""
    with pytest.raises(ValueError, match="connectors name 'mask', which is read of the batch"):
        objective(
            reads=dict(student='student.logits', teacher='teacher.logits', mask='batch.valid'),
            connectors=dict(mask=nn.Identity()),
        )


@pytest.mark.parametrize('loss', ['AttentionKLLoss', 'SqueezedKnowledgeLoss'])
def test_auto_of_a_loss_that_needs_nothing(loss: str) -> None:
    reads = (
        dict(on='logits')
        if loss == 'AttentionKLLoss'
        else dict(
            on='logits', reads=dict(student_global='student.feat', teacher_global='teacher.feat')
        )
    )
    with pytest.raises(
        ValueError,
        match=rf"objective 'pixel': connectors=dict\(student='auto'\) would do nothing: "
        rf'{loss} needs its arguments to agree neither in channels nor in size '
        r'\(alike = \(\)\). Mend: leave it out, or a connector of your own',
    ):
        objective(dict(type=loss), **reads, connectors=dict(student='auto'))


@pytest.mark.parametrize('connectors', ['auto', ['auto'], True])
def test_connectors_are_a_dict(connectors: Any) -> None:
    with pytest.raises(
        TypeError,
        match=re.escape(
            "objective 'pair': connectors is dict(student='auto') or dict(teacher='auto'), got "
            f'{connectors!r}'
        ),
    ):
        objective(name='pair', on='logits', connectors=connectors)


@pytest.mark.parametrize(
    ('loss', 'student', 'teacher', 'message'),
    [
        (
            'FeatureL1Loss',
            (1, 16, 4),
            (1, 16, 6),
            r"connectors='auto' fits two tensors \(N, C, H, W\) or \(N, C\) to each other, got "
            r"student='student.logits' \(1, 16, 4\), teacher='teacher.logits' \(1, 16, 6\)\. Mend: "
            r'taps of such tensors',
        ),
        (
            'FeatureL1Loss',
            (1, 4, 2, 2, 2),
            (1, 6, 2, 2, 2),
            r'fits two tensors .* got .*\(1, 4, 2, 2, 2\)',
        ),
        ('FeatureL1Loss', (), (), r'fits two tensors .* got .*\(\)'),
        (
            'FeatureL1Loss',
            (1, 4),
            (1, 4, 2, 2),
            r'fits two tensors .* got .*\(1, 4\), .*\(1, 4, 2, 2\)',
        ),
        (
            'HiddenCosineLoss',
            (1, 16, 4),
            (1, 9, 4),
            r'resizes no tokens \(N, L, D\), got .*\(1, 16, 4\).*\(1, 9, 4\)',
        ),
        (
            'HiddenCosineLoss',
            (1, 16, 4),
            (1, 4),
            r'\(N, C, H, W\) or \(N, C\) or \(N, L, D\) to each other',
        ),
        (
            'PairWiseAffinityLoss',
            (6, 1, 9, 4),
            (6, 1, 16, 4),
            r'fits maps \(N, C, H, W\) of the N=1 images of the batch, got .*\(6, 1, 9, 4\).*: '
            r'axis 1 is not that of channels',
        ),
        (
            'FeatureL1Loss',
            (1, 4, 2, 2),
            (6, 5, 2, 2),
            r'of the N=1 images of the batch, got .*\(6, 5, 2, 2\)',
        ),
    ],
)
def test_auto_takes_no_other_axis_for_channels(
    loss: str, student: tuple, teacher: tuple, message: str
) -> None:
    one = objective(dict(type=loss), on='logits', connectors=dict(student='auto'))
    with pytest.raises(ValueError, match=f"objective 'pixel': .*{message}"):
        one.fit(maps(student, teacher))
    assert not len(one.connectors)


# ---------------------------------------------------------------------- class logits

CLASS_LOGITS = [
    dict(type='PixelWiseKLLoss', tau=2.0),
    dict(type='LogitMSELoss'),
    dict(type='BinaryKLLoss'),
    dict(
        type='AdversarialLoss',
        mode='hinge',
        activation='softmax',
        critic=dict(type='CategoryCritic', in_channels=4, num_classes=0),
    ),
]


@pytest.mark.parametrize('loss', CLASS_LOGITS, ids=lambda loss: loss['type'])
@pytest.mark.parametrize(
    ('student', 'teacher'), [((2, 3), (4, 6)), ((8, 8), (3, 5)), ((2, 2), (2, 4))]
)
def test_a_teachers_class_logits_are_resized_where_nobody_says_how(
    loss: dict, student: tuple, teacher: tuple
) -> None:
    rec = maps((1, 4, *student), (1, 4, *teacher))
    torch.manual_seed(0)
    plain = objective(loss, on='logits').eval()
    done = f'pixel: teacher {(4, *teacher)} -> {(4, *student)} by bilinear resize'
    assert plain.fit(rec) == [f'{done}, since none was given']
    assert plain.fit(rec) == []  # once
    assert not list(plain.connectors.parameters())
    torch.manual_seed(0)
    told = objective(loss, on='logits', connectors=dict(teacher='auto')).eval()
    assert told.fit(rec) == [done]
    value = plain(rec)['pixel.loss']
    assert value == told(rec)['pixel.loss']
    resized = F.interpolate(
        rec['teacher']['logits'], size=student, mode='bilinear', align_corners=False
    )
    torch.testing.assert_close(value, plain.loss(rec['student']['logits'], resized))


def test_what_is_not_resized_by_itself() -> None:
    small, large = (1, 4, 2, 2), (1, 4, 4, 4)
    assert objective().fit(maps(small, small)) == []  # nothing to do
    told = objective(on='logits', connectors=dict(student='auto'))
    assert told.fit(maps(small, large)) == [
        'pixel: student (4, 2, 2) -> (4, 4, 4) by bilinear resize'
    ]
    own = objective(on='logits', connectors=dict(student=nn.ConvTranspose2d(4, 4, 2, stride=2)))
    assert own.fit(maps(small, large)) == []
    for loss in ('PairWiseAffinityLoss', 'FeatureL1Loss', 'AdversarialLoss'):  # of features
        options = dict(critic=nn.Conv2d(4, 1, 1)) if loss == 'AdversarialLoss' else {}
        features = objective(dict(type=loss, **options), on='logits')
        assert features.fit(maps(small, large)) == []
        with pytest.raises(ValueError, match=r"mend: connectors=dict\(student='auto'\)"):
            features(maps(small, large))


def test_stacks_of_class_logits_are_refused_with_the_mend() -> None:
    for loss in ('EnsembleKLLoss', 'DirichletNLLLoss', 'ProxyDirichletLoss'):
        one, rec = (
            objective(dict(type=loss), reads=dict(student='student.logits', teachers='t?.logits')),
            maps((1, 4, 2, 2), (1, 4, 4, 4)),
        )
        (stream,) = one.running()
        rec[stream.key] = stream.start()
        for member in ('t1', 't2'):
            stream.update(rec[stream.key], rec[member]['logits'])
        assert one.fit(rec) == []
        with pytest.raises(
            ValueError, match=r"Mend: connectors=dict\(student='auto'\) resizes the student"
        ):
            one(rec)


@pytest.mark.parametrize('loss', CLASS_LOGITS, ids=lambda loss: loss['type'])
@pytest.mark.parametrize('role', ['student', 'teacher'])
def test_no_convolution_is_trained_between_classes(loss: dict, role: str) -> None:
    one = objective(loss, on='logits', connectors={role: 'auto'})
    with pytest.raises(
        ValueError,
        match=r"objective 'pixel': (student has 4 classes, teacher 6|teacher has 6 classes, "
        r'student 4)\. Class k of one is not class k of the other, and a convolution '
        r'trained between them would only hide that. Mend: members of the same',
    ):
        one.fit(maps((1, 4, 2, 2), (1, 6, 2, 2)))
    assert not len(one.connectors)


@pytest.mark.parametrize('loss', CLASS_LOGITS, ids=lambda loss: loss['type'])
def test_other_classes_are_refused_without_the_offer_of_a_convolution(loss: dict) -> None:
    rec = maps((1, 4, 2, 2), (1, 6, 2, 2))
    with pytest.raises(
        ValueError,
        match='objective .pixel.: .*Class k of one is not class k of the other.*Mend: '
        'members of the same classes, or compare features',
    ) as raised:
        objective(loss, on='logits')(rec)
    assert 'connectors' not in raised.value.args[0]


def test_losses_say_which_arguments_are_class_logits() -> None:
    """Each of these is a function of a distribution over classes; whatever else takes features of
    any kind.
    """
    import mmkd.losses

    kinds = [
        getattr(mmkd.losses, name)
        for name in dir(mmkd.losses)
        if name.endswith('Loss') and name != 'Loss'
    ]
    said = {kind.__name__: class_logits(kind) for kind in kinds}
    teacher = {name for name, found in said.items() if found == ('student', 'teacher')}
    teachers = {name for name, found in said.items() if found == ('student', 'teachers')}
    assert teacher == {
        'BinaryKLLoss',
        'BoostedTargetCELoss',
        'DISTLoss',
        'DecoupledKLLoss',
        'LearnedTemperatureKLLoss',
        'LogitMSELoss',
        'MixedTargetCELoss',
        'NormalizedKLLoss',
        'PixelWiseKLLoss',
        'ReliabilityMixLoss',
        'SoftJaccardLoss',
        'TopKDecoupledKLLoss',
        'WeightedSoftLabelsLoss',
    }
    assert teachers == {'EnsembleKLLoss', 'DirichletNLLLoss', 'ProxyDirichletLoss'}
    # features, and what the teacher's classifier makes of them
    assert said.pop('SoftmaxRegressionLoss') == ('teacher_logits',)
    assert said.pop('ExitLoss') == ('teacher',)  # whose classes the labels are looked up among
    assert all(found == () for name, found in said.items() if name not in teacher | teachers)
    for activation, expected in (
        (None, ()),
        ('softmax', ('student', 'teacher')),
        ('sigmoid', ('student', 'teacher')),
    ):
        loss = AdversarialLoss(nn.Conv2d(3, 1, 1), activation=activation)
        assert class_logits(loss) == expected


def class_logits(loss: Any) -> tuple[str, ...]:
    return tuple(
        name for name, role in loss.roles.items() if isinstance(role, Map) and role.class_logits
    )


def test_auto_beside_a_stack_of_teachers() -> None:
    class Mean(nn.Module):
        def forward(self, student: Tensor, teachers: Tensor) -> Tensor:
            return (student - teachers.mean(0)).square().mean()

    one = objective(
        Mean(),
        reads=dict(student='student.logits', teachers='t?.logits'),
        connectors=dict(student='auto'),
    )
    rec = maps((1, 4, 2, 2), (1, 6, 4, 4))
    assert one.fit(rec) == [
        'pixel: student (4, 2, 2) -> (6, 4, 4) by 1x1 convolution and bilinear resize'
    ]
    x = one.connectors['student'](rec['student']['logits'], size=(4, 4))
    target = (rec['t1']['logits'] + rec['t2']['logits']).detach() / 2
    torch.testing.assert_close(one(rec)['pixel.loss'], (x - target).square().mean())
    with pytest.raises(
        ValueError,
        match=r"connectors=dict\(teachers='auto'\) fits one map to another, but the "
        r'objective',
    ):
        objective(
            Mean(),
            reads=dict(student='student.logits', teachers='t?.logits'),
            connectors=dict(teachers='auto'),
        )


def test_auto_fits_each_role_to_its_own_counterpart() -> None:
    class Two(nn.Module):
        def forward(
            self, student: Tensor, teacher: Tensor, student_global: Tensor, teacher_global: Tensor
        ) -> Tensor:
            return F.mse_loss(student, teacher) + F.mse_loss(student_global, teacher_global)

    known = dict(student=['map', 'vector'], teacher=['map', 'vector'])
    rec = record(
        student_map=torch.randn(1, 4, 2, 2, requires_grad=True),
        teacher_map=torch.randn(1, 6, 4, 4),
        student_vector=torch.randn(1, 3, requires_grad=True),
        teacher_vector=torch.randn(1, 5),
    )
    one = objective(
        Two(),
        known,
        reads=dict(
            teacher_global='teacher.vector',
            student='student.map',
            student_global='student.vector',
            teacher='teacher.map',
        ),
        connectors=dict(student='auto', student_global='auto'),
    )
    assert one.fit(rec) == [
        'pixel: student (4, 2, 2) -> (6, 4, 4) by 1x1 convolution and bilinear resize',
        'pixel: student_global (3,) -> (5,) by 1x1 convolution',
    ]
    connectors = one.connectors
    expected = F.mse_loss(
        connectors['student'](rec['student']['map'], size=(4, 4)), rec['teacher']['map']
    ) + F.mse_loss(connectors['student_global'](rec['student']['vector']), rec['teacher']['vector'])
    torch.testing.assert_close(one(rec)['pixel.loss'], expected)


def test_auto_with_nothing_to_fit_to() -> None:
    with pytest.raises(
        ValueError,
        match=r"objective 'pixel': connectors=dict\(student='auto'\) fits one map to "
        r'another',
    ):
        objective(Echo(), reads=dict(student='student.logits'), connectors=dict(student='auto'))
    rec = record(student_logits=[torch.ones(1, 2, 1, 1)] * 2, teacher_logits=torch.ones(1, 2, 1, 1))
    with pytest.raises(
        ValueError, match='student is a list of 2. Mend: a connector of your own, or one call'
    ):
        objective(Echo(), on='logits', connectors=dict(student='auto')).fit(rec)


@pytest.mark.parametrize(
    'connector',
    [
        dict(type='Connector', in_channels=4, out_channels=6, resize=True),
        Connector(4, 6, resize=True),
        nn.ConvTranspose2d(4, 6, 2, stride=2),
    ],
    ids=str,
)
def test_connectors_of_ones_own(connector: Any) -> None:
    one, rec = (
        objective(on='logits', connectors=dict(student=connector)),
        maps((1, 4, 2, 2), (1, 6, 4, 4)),
    )
    assert one.fit(rec) == []
    module = one.connectors['student']
    size = dict(size=(4, 4)) if isinstance(module, Connector) else {}
    expected = pixel_wise_kl(module(rec['student']['logits'], **size), rec['teacher']['logits'])
    torch.testing.assert_close(one(rec)['pixel.loss'], expected)


@pytest.mark.parametrize(
    ('connector', 'error', 'message'),
    [
        (
            dict(type='Conector', in_channels=4),
            KeyError,
            "connector of 'student': 'Conector' is not registered; did you mean 'Connector'",
        ),
        (
            dict(type='Connector', in_chanels=4),
            TypeError,
            "unknown key 'in_chanels'; did you mean 'in_channels'",
        ),
        (
            'atuo',
            TypeError,
            r"connector of 'student' must be dict\(type='…', …\) or a module, got 'atuo'",
        ),
    ],
)
def test_bad_connectors(connector: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        objective(on='logits', connectors=dict(student=connector))
    assert re.search(message, raised.value.args[0])


def test_a_connector_that_does_not_fit_is_named() -> None:
    one = objective(on='logits', connectors=dict(student=Connector(9, 6)))
    with pytest.raises(
        RuntimeError,
        match=r"objective 'pixel': the connector of 'student' got "
        r"student='student.logits' "
        r"\(1, 4, 2, 2\), teacher='teacher.logits' \(1, 6, 4, 4\): .* 9 channels",
    ):
        one(maps((1, 4, 2, 2), (1, 6, 4, 4)))


# ---------------------------------------------------------------------- critics


def test_critic_is_sized_by_the_maps_and_its_loss_is_not_weighted() -> None:
    one = Objective(
        'holistic',
        dict(type='AdversarialLoss', mode='hinge', critic=dict(channels=(8, 16))),
        KNOWN,
        on='logits',
        reads=dict(image='batch.inputs'),
        weight=0.5,
    )
    rec = maps((1, 4, 8, 8), (1, 4, 8, 8))
    assert one.adversarial
    assert not objective().adversarial
    assert one.fit(rec) == ['holistic: critic for maps (4, 8, 8)']
    assert one.loss.critic.blocks[0].weight.shape[1] == 4 + 3
    plain = AdversarialLoss(critic=one.loss.critic, mode='hinge').eval()
    one.eval()
    s, t, image = rec['student']['logits'], rec['teacher']['logits'], rec['batch'].inputs
    torch.testing.assert_close(one(rec), {'holistic.loss': 0.5 * plain(s, t, image=image)})
    got = one.critic_loss(rec)
    torch.testing.assert_close(got, {'holistic.critic_loss': plain.critic_loss(s, t, image=image)})
    got['holistic.critic_loss'].backward()
    assert s.grad is None
    assert one.loss.critic.score.weight.grad.abs().sum() > 0


def test_a_map_too_small_for_the_critic_names_the_objective() -> None:
    one = Objective('holistic', dict(type='AdversarialLoss'), KNOWN, on='logits')
    with pytest.raises(
        ValueError,
        match=r"objective 'holistic': AdversarialLoss got student='student.logits' "
        r'\(1, 4, 2, 2\)'
        r'.*HolisticCritic needs maps \(H, W\) of at least 4×4',
    ):
        one.fit(maps())


def test_masks_and_weights_of_tokens_are_of_the_tokens() -> None:
    """And not of their numbers, which have no places: (N, L) of (N, L, D)."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, requires_grad=True), torch.randn(2, 5, 7)
    unlabelled = SegDataSample(metainfo=dict(labelled=False))
    labelled = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 8, 8, dtype=torch.long)))
    seen = dict(
        batch=Batch(torch.zeros(2, 3, 8, 8), [labelled, unlabelled]),
        student=dict(feat=student),
        teacher=dict(feat=teacher),
    )
    for loss in (
        dict(type='HiddenCosineLoss'),
        dict(type='FeatureMatchingLoss', tokens=True),
    ):
        read = dict(student='student.feat', teacher='teacher.feat')
        known = build_objective('one', dict(loss=loss, reads=read), KNOWN)
        first = {**seen, 'student': dict(feat=student[:1]), 'teacher': dict(feat=teacher[:1])}
        expected = known(first)['one.loss']
        masked = build_objective(
            'one', dict(loss=loss, reads=dict(**read, mask='batch.labelled')), KNOWN
        )
        torch.testing.assert_close(masked(seen)['one.loss'], expected)
    weighed = build_objective(
        'one', dict(loss=loss, reads=read, where=dict(type='Labelled')), KNOWN
    )
    torch.testing.assert_close(weighed(seen)['one.loss'], expected)
