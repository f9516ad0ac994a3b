"""MixedExitLoss by value: its two terms, who learns from which, sizes, and refusals."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmkd.distiller.objectives.objective import build_objective
from mmkd.losses import MixedExitLoss, reliability_mix
from mmkd.structures.batch import Batch
from mmkd.structures.record import Record
from mmkd.tasks import Segmentation


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def exits(**options: object) -> MixedExitLoss:
    torch.manual_seed(3)
    return MixedExitLoss(5, student_channels=3, teacher_channels=4, **options).double()


STUDENT, TEACHER = draw(2, 3, 4, 6), draw(2, 4, 2, 3, seed=1)
LABELS = torch.arange(48).view(2, 4, 6) % 5
OF_IMAGES = torch.tensor([1, 4])


def test_of_maps_it_is_the_mix_at_the_students_size_and_torchs_cross_entropy() -> None:
    loss = exits(kd=0.7, ce=0.3, tau=2.0)
    s, t = loss.exits['student'](STUDENT), loss.exits['teacher'](TEACHER)
    t = F.interpolate(t, size=(4, 6), mode='bilinear', align_corners=False)
    target = F.one_hot(LABELS, 5).movedim(-1, 1).double()
    wrong = sum(F.binary_cross_entropy_with_logits(x, target) for x in (s, t))
    mix = reliability_mix(s, t, LABELS, 2.0)
    torch.testing.assert_close(loss(STUDENT, TEACHER, LABELS), 0.7 * mix + 0.3 * wrong)
    alone = exits(kd=0.0, ce=0.5)(STUDENT, TEACHER, LABELS)
    torch.testing.assert_close(alone, 0.5 * wrong)


@pytest.mark.parametrize('over', ['places', 'classes'])
def test_of_images_stages_are_averaged_first(over: str) -> None:
    loss = exits(over=over)
    s, t = (
        head(x.mean((2, 3), keepdim=True)).flatten(1)
        for head, x in zip(loss.exits.values(), (STUDENT, TEACHER), strict=True)
    )
    target = F.one_hot(OF_IMAGES, 5).double()
    wrong = sum(F.binary_cross_entropy_with_logits(x, target) for x in (s, t))
    expected = reliability_mix(s, t, OF_IMAGES, over=over) + wrong
    torch.testing.assert_close(loss(STUDENT, TEACHER, OF_IMAGES), expected)


def test_the_teachers_exit_learns_by_the_labels_alone() -> None:
    """And the teacher by nothing."""
    teacher = TEACHER.clone().requires_grad_()
    slopes = []
    for kd in (0.0, 5.0):
        loss = exits(kd=kd)
        loss(STUDENT, teacher, LABELS).backward()
        slopes.append([p.grad for p in loss.parameters()])
    assert teacher.grad is None
    ours, theirs = slopes[0][:2], slopes[0][2:]
    assert all(p.abs().max() > 0 for p in theirs)
    assert all(map(torch.equal, theirs, slopes[1][2:]))
    assert not any(map(torch.equal, ours, slopes[1][:2]))


def test_zero_with_zero_gradient_where_both_say_the_same() -> None:
    """But for the labels."""
    loss = MixedExitLoss(5, student_channels=3, teacher_channels=3).double()
    loss.exits['teacher'].load_state_dict(loss.exits['student'].state_dict())
    stage = STUDENT.clone().requires_grad_()
    found = []
    for kd in (0.0, 9.0):
        loss.kd = kd
        value = loss(stage, STUDENT, LABELS)
        found.append((value, *torch.autograd.grad(value, stage)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)


def test_what_does_not_count_may_be_nan() -> None:
    loss = exits()
    mask = torch.tensor([True, False])
    expected = loss(STUDENT[:1], TEACHER[:1], OF_IMAGES[:1])
    student, teacher = STUDENT.clone(), TEACHER.clone()
    student[1], teacher[1] = torch.nan, torch.inf
    value = loss(student, teacher, OF_IMAGES, mask)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


@pytest.mark.parametrize('kd', [0.0, 1.0])
def test_what_has_no_label_may_be_nan(kd: float) -> None:
    """A place of 255 and an image of −1 reach neither value nor the weights of the exits."""
    loss = exits(kd=kd)
    labels, teacher = LABELS.clone(), draw(2, 4, 4, 6, seed=1)
    labels[0, 1:3, 2] = 255
    for target, unknown in ((labels, labels == 255), (torch.tensor([1, -1]), None)):
        pair = [STUDENT.clone(), teacher.clone()]
        expected = loss(*pair, target)
        slopes = torch.autograd.grad(expected, [*loss.parameters()])
        for x, spoilt in zip(pair, (torch.nan, torch.inf), strict=True):
            if unknown is None:
                x[1] = spoilt
            else:
                x.movedim(1, -1)[unknown] = spoilt
        value = loss(*pair, target)
        torch.testing.assert_close(value, expected)
        found = torch.autograd.grad(value, [*loss.parameters()])
        for one, other in zip(found, slopes, strict=True):
            torch.testing.assert_close(one, other)


def test_it_is_built_from_what_it_reads() -> None:
    loss = MixedExitLoss(5)
    assert loss.build(student=STUDENT, teacher=TEACHER, labels=LABELS) == (
        'exit of student 3 -> 5 classes, exit of teacher 4 -> 5 classes'
    )
    assert loss.build(student=STUDENT, teacher=TEACHER, labels=LABELS) == ''
    half = MixedExitLoss(5, teacher_channels=4)
    assert half.build(student=STUDENT, teacher=TEACHER, labels=LABELS).startswith('exit of student')
    assert sorted(half.exits) == ['student', 'teacher']


@pytest.mark.parametrize(
    'loss',
    [dict(type='MixedExitLoss', num_classes=3), dict(type='ExitLoss')],
    ids=lambda loss: loss['type'],
)
def test_an_objective_with_a_mask_is_built_and_reads_it(loss: dict) -> None:
    """It is built with all that it reads; what the mask leaves out may be NaN."""
    places = torch.zeros(2, 1, 4, 6, dtype=torch.long)
    places[:, :, 1] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in places]
    known = dict(student=['stage'], teacher=['stage'])
    reads = dict(
        student='student.stage',
        teacher='teacher.stage',
        labels='batch.labels',
        mask='batch.valid',
    )
    torch.manual_seed(0)
    objective = build_objective('exit', dict(loss=loss, reads=reads), known)
    stages = dict(student=draw(2, 3, 4, 6).float(), teacher=draw(2, 3, 4, 6, seed=1).float())
    record = Record(Batch(torch.zeros(2, 3, 4, 6), samples, task=Segmentation(3)))
    record.update({name: dict(stage=x.requires_grad_()) for name, x in stages.items()})
    (said,) = objective.fit(record)
    assert said.startswith('exit: exit ')
    (expected,) = objective(record).values()
    with torch.no_grad():
        stages['student'][:, :, 1] = torch.nan
    (value,) = objective(record).values()
    assert value == expected
    assert value > 0


@pytest.mark.bad_input
def test_bad_input() -> None:
    with pytest.raises(RuntimeError, match='the exits are not built.*Mend: student_channels'):
        MixedExitLoss(5)(STUDENT, TEACHER, LABELS)
    loss = exits()
    for student, teacher in ((STUDENT[..., 0], TEACHER), (STUDENT, TEACHER[:1])):
        with pytest.raises(ValueError, match='exits read a stage .*mend: taps'):
            loss(student, teacher, LABELS)
    with pytest.raises(ValueError, match=r'exits need labels .* got \(2, 4\); mend: reads'):
        loss(STUDENT, TEACHER, LABELS[..., 0])
    with pytest.raises(ValueError, match=r'needs labels \(2, 4, 6\) .* got \(2, 2, 3\); mend'):
        loss(STUDENT, TEACHER, LABELS[:, :2, :3])
    with pytest.raises(ValueError, match='ce must be a finite number above 0'):
        MixedExitLoss(5, ce=0.0)
    with pytest.raises(ValueError, match='num_classes must be'):
        MixedExitLoss(1)
    with pytest.raises(ValueError, match='over must be'):
        MixedExitLoss(5, over='pixels')
