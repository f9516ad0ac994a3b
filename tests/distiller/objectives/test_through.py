"""A student's tensor through the teacher's head: cut, value, gradient, refusals."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import batch, build, distiller, segmentor, sgd
from torch import Tensor, nn

from mmkd.distiller.objectives.through import aligned
from mmkd.distiller.taps.ending import find_links, run_links
from mmkd.distiller.taps.tracing import trace

TAPS = dict(logits='auto', feat='auto:feature')


def through(head: Any = True, loss: str = 'LogitMSELoss', **objective: Any) -> dict:
    reads = dict(student='student.feat', teacher='teacher.logits')
    return dict(loss=dict(type=loss), reads=reads, teacher_head=head) | objective


def config(width: int = 4, **overrides: Any) -> dict:
    objective = overrides.pop('objective', None) or through()
    given = dict(
        taps=TAPS,
        objectives=dict(head=objective),
        student=dict(model=segmentor(width)),
        teacher=dict(model=segmentor(8), allow_untrained=True),
    )
    return distiller(**(given | overrides))


def made(width: int = 4, **overrides: Any) -> Any:
    torch.manual_seed(0)
    return build(config(width, **overrides))


def ready(model: Any) -> dict:
    return model.data_preprocessor(batch(), True)


def twins(**overrides: Any) -> Any:
    """Return a Distiller whose student has the teacher's weights and is in eval mode."""
    model = made(8, **overrides)
    model.student.load_state_dict(model.teacher.state_dict())
    return model.eval()


# ---------------------------------------------------------------------- what passes


def test_a_student_that_is_the_teacher_gets_its_logits_bit_for_bit() -> None:
    model = twins()
    record, _ = model.observe(**ready(model))
    objective = model.objectives['head']
    passed = objective._values(record)['student']
    assert torch.equal(passed, record['teacher']['logits'])
    value = objective(record)['head.loss']
    assert value == 0
    value.backward()
    grads = [p.grad for p in model.student.parameters() if p.grad is not None]
    assert grads
    assert not any(grad.any() for grad in grads)


def test_the_value_is_that_of_the_teachers_classifier_by_hand() -> None:
    model = made()
    record, _ = model.observe(**ready(model))
    value = model.objectives['head'](record)['head.loss']
    conv = model.objectives['head'].connectors['student'].conv
    head = model.teacher.decode_head.conv_seg
    feature = F.conv2d(record['student']['feat'], conv.weight, conv.bias)
    logits = F.conv2d(feature, head.weight, head.bias)
    expected = (logits - record['teacher']['logits']).square().sum(1).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert value > 0


def test_the_teacher_learns_nothing_and_the_student_does() -> None:
    model = made(task_weight=0.0)
    before = copy.deepcopy(model.teacher.state_dict())
    student = copy.deepcopy(model.student.state_dict())
    model.train_step(batch(), sgd(model, 0.1))
    assert all(torch.equal(before[key], x) for key, x in model.teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    assert not model.teacher.training
    moved = [
        key for key, x in model.student.state_dict().items() if not torch.equal(x, student[key])
    ]
    assert 'backbone.stem.0.weight' in moved
    assert 'decode_head.conv_seg.weight' not in moved, 'its own classifier is not passed'


def test_the_gradient_is_the_finite_difference_through_the_head() -> None:
    model = made()
    record, _ = model.observe(**ready(model))
    objective, run = model.objectives['head'], model.runs['teacher']
    run.model.double()
    run.dtype = torch.float64
    objective.connectors.double()
    feat = record['student']['feat'].detach().double()[:1, :, :2, :2].requires_grad_()
    theirs = {k: x.double()[:1, :, :2, :2] for k, x in record['teacher'].items()}

    def value(x: Tensor) -> Tensor:
        small = {'student': dict(feat=x), 'teacher': theirs, 'batch': record['batch']}
        return objective(small)['head.loss']  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(value, (feat,))
    assert torch.autograd.grad(value(feat), feat)[0].abs().sum() > 0


@pytest.mark.parametrize(
    'teacher', [dict(precision='bf16'), dict(channels_last=True), dict(fuse_bn=True)]
)
def test_options_of_teachers_hold_in_the_head(teacher: dict) -> None:
    model = made(teacher=dict(model=segmentor(8), allow_untrained=True, **teacher))
    logs = model.train_step(batch(), sgd(model))
    assert logs['head.loss'].isfinite()
    assert logs['head.loss'].dtype == torch.float32


@pytest.mark.parametrize(('precision', 'near'), [('fp16', 0.01), ('bf16', 0.05)])
@pytest.mark.parametrize('weight', [1.0, 1e-3, 1e-6])
def test_small_gradients_pass_the_head_of_a_teacher_of_half_precision(
    precision: str, near: float, weight: float
) -> None:
    """They are those of the same head in float32; in float16 the smallest ones would be 0."""
    taps = dict(logits='auto', feat='decode_head.bottleneck.conv')  # a norm is passed as well
    found = []
    for options in ({}, dict(precision=precision)):
        teacher = dict(model=segmentor(8), allow_untrained=True, **options)
        objective = through(loss='PixelWiseKLLoss', weight=weight)
        model = made(teacher=teacher, taps=taps, objective=objective)
        record, _ = model.observe(**ready(model))
        model.objectives['head'](record)['head.loss'].backward()
        found.append(model.student.backbone.stem[0].weight.grad / weight)
    assert found[0].norm() > 0
    assert (found[0] - found[1]).norm() < near * found[0].norm()
    assert torch.equal(found[0] == 0, found[1] == 0)


def test_several_modules_are_passed_with_their_norms_in_eval_mode() -> None:
    taps = dict(logits='auto', feat='decode_head.bottleneck.conv')
    model = twins(taps=taps)
    assert model.objectives['head'].through.heads[0].modules == [
        'decode_head.bottleneck.bn',
        'decode_head.bottleneck.activate',
        'decode_head.conv_seg',
    ]
    record, _ = model.observe(**ready(model))
    passed = model.objectives['head']._values(record)['student']
    assert torch.equal(passed, record['teacher']['logits'])


def test_maps_of_another_size_are_brought_to_the_teachers() -> None:
    small = segmentor(4)
    small['backbone'].update(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    model = made(student=dict(model=small))
    record, _ = model.observe(**ready(model))
    seen = record['student']['feat'].shape[2:], record['teacher']['feat'].shape[2:]
    assert seen[0] != seen[1]
    passed = model.objectives['head']._values(record)['student']
    assert passed.shape == record['teacher']['logits'].shape


def test_a_teacher_of_other_classes_needs_no_class_map() -> None:
    teacher = dict(model=segmentor(8, num_classes=5), allow_untrained=True)
    model = made(teacher=teacher, objective=through(loss='PixelWiseKLLoss'))
    assert model.train_step(batch(), sgd(model))['head.loss'].isfinite()


def test_an_ema_copy_of_the_distiller_shares_the_teacher() -> None:
    model = made()
    other = copy.deepcopy(model)
    assert other.objectives['head'].through.heads[0].run is model.runs['teacher']
    assert not any('teacher' in key.split('.')[0] for key in model.state_dict())


def test_a_run_goes_on_from_its_state() -> None:
    one, other = made(), made()
    optimizer = sgd(one)
    one.train_step(batch(seed=1), optimizer)
    other.load_state_dict(one.state_dict())
    resumed = sgd(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, wrapper in ((one, optimizer), (other, resumed)):
        torch.manual_seed(3)
        model.train_step(batch(seed=2), wrapper)
    state = other.state_dict()
    assert all(torch.equal(x, state[key]) for key, x in one.state_dict().items())


def test_alignment_is_the_mean_and_deviation_of_the_other() -> None:
    torch.manual_seed(0)
    x, like = torch.randn(3, 4, 5, 6).double(), 2 + 3 * torch.randn(3, 4, 5, 6).double()
    y = aligned(x, like)
    torch.testing.assert_close(y.mean((0, 2, 3)), like.mean((0, 2, 3)))
    torch.testing.assert_close(y.std((0, 2, 3)), like.std((0, 2, 3)))
    torch.testing.assert_close(aligned(7 * x - 2, like), y)  # whatever its own scale
    flat = torch.zeros_like(x).requires_grad_()
    aligned(flat, like).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()
    torch.testing.assert_close(aligned(like, like), like)


def test_an_objective_may_align() -> None:
    head = dict(at='teacher.feat', align=True)
    model = made(objective=through(head))
    record, _ = model.observe(**ready(model))
    objective = model.objectives['head']
    conv = objective.connectors['student'].conv
    feature = aligned(conv(record['student']['feat']), record['teacher']['feat'])
    expected = model.teacher.decode_head.conv_seg(feature)
    torch.testing.assert_close(objective._values(record)['student'], expected)


# ---------------------------------------------------------------------- the cut itself


class Adds(nn.Module):
    """Two layers, with something between them that no module does."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(2, 2), nn.Linear(2, 2), between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


@pytest.mark.parametrize('between', [lambda x: x + 1, torch.relu, lambda x: torch.cat([x, x])])
def test_functions_between_modules_break_the_chain(between: Any) -> None:
    model, x = Adds(between), torch.ones(1, 2)
    found = trace(model, x, lambda: model(x))
    calls = {call.path: call for call in found.calls}
    search = find_links(found, calls['first'].output, calls['second'].output)
    assert search.links is None
    assert search.nearest == 'second:input'


def test_a_chain_makes_again_what_the_forward_made() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(2, 3, 1)
    )
    model.eval()
    x = torch.randn(2, 1, 3, 3)
    found = trace(model, x, lambda: model(x))
    links = find_links(found, found.calls[1].output, found.calls[-1].output).links
    assert links is not None
    assert torch.equal(run_links(model, links, torch.relu(model[0](x))), model(x))


# ---------------------------------------------------------------------- refusals


def test_a_head_that_cannot_be_cut_names_the_nearest_place() -> None:
    with pytest.raises(
        ValueError,
        match=r"objective 'head': teacher: between 'backbone\[3\]' and 'decode_head.conv_seg' lies "
        r"more than modules .*Mend: taps=dict\(feat='decode_head.bottleneck:input'\)",
    ):
        made(taps=dict(logits='auto', feat='backbone[3]'))


def test_the_nearest_place_can_be_cut() -> None:
    teacher = dict(
        model=segmentor(8), allow_untrained=True, taps=dict(feat='decode_head.bottleneck:input')
    )
    model = made(taps=dict(logits='auto', feat='backbone[3]'), teacher=teacher)
    assert model.train_step(batch(), sgd(model))['head.loss'] > 0


@pytest.mark.parametrize(
    ('objective', 'error', 'text'),
    [
        (through('teacher.feet'), KeyError, "no tap 'feet'.*did you mean 'feat'"),
        (through(3), TypeError, r'teacher_head is True, a tap .*got 3\. Mend'),
        (through(dict(at='teacher.feat', allign=True)), TypeError, "did you mean 'align'"),
        (through('student.feat'), ValueError, r"within one teacher\. Mend: teacher_head='teacher"),
        (through(['teacher.feat'] * 2), ValueError, 'has 2 taps for 1 tensors'),
        (through(class_map='names'), ValueError, 'class_map has nothing to map'),
        (through(connectors=dict(teacher='auto')), KeyError, "got connectors of .'teacher'"),
        (
            through(reads=dict(student=['student.feat'], teacher='teacher.logits')),
            ValueError,
            'leads from one tensor to one',
        ),
    ],
)
def test_bad_values(objective: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        made(objective=objective)


def test_teachers_without_a_head() -> None:
    compiled = dict(model=segmentor(8), allow_untrained=True, compile=True)
    with pytest.raises(ValueError, match='is compiled as one function.*Mend: leave compile out'):
        made(teacher=compiled)
    peers = dict(students=dict(a=dict(model=segmentor(4)), b=dict(model=segmentor(4))))
    reads = dict(student='a.feat', teacher='b.logits')
    with pytest.raises(ValueError, match='is a student, whose weights move'):
        made(student=None, teacher=None, objective=through(reads=reads), **peers)


def test_labels_are_of_the_students_classes() -> None:
    teacher = dict(model=segmentor(8, num_classes=5), allow_untrained=True)
    reads = dict(student='student.feat', teacher='teacher.logits', labels='batch.labels')
    objective = through(loss='BoostedTargetCELoss', reads=reads)
    with pytest.raises(ValueError, match="reads labels, of the student's 11 classes"):
        made(teacher=teacher, objective=objective)


def test_a_head_that_reads_other_channels_says_so() -> None:
    with pytest.raises(ValueError, match="the teacher's head reads .*Mend: connectors=dict"):
        made(objective=through(connectors=dict(student=nn.Identity())))
