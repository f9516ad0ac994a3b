"""The parts of ``where=``: values by hand, by slow loops from the definition, and at limits."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import two_ranks_where
from helpers.processes import ranks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmkd.losses import channel_wise_kl, pixel_wise_kl
from mmkd.registry import build_part
from mmkd.structures.batch import Batch
from mmkd.where import (
    BoundaryBand,
    Boxes,
    ClassBalance,
    Disagreement,
    Focal,
    TeacherConfidence,
    Where,
    boundary_band,
    share_of_boxes,
)
from mmkd.where.base import at_size


def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_of(labels: Tensor) -> Batch:
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in labels]
    return Batch(torch.zeros(len(labels), 3, *labels.shape[1:]), samples)


def label_maps(size: tuple[int, int] = (12, 16), classes: int = 3, seed: int = 0) -> Tensor:
    """Return regions of classes, some of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, classes + 1, (2, 1, 3, 4), generator=generator).float()
    labels = torch.nn.functional.interpolate(coarse, size=size)[:, 0].long()
    return labels.masked_fill(labels == classes, 255)


PARTS = [
    BoundaryBand(radius=1),
    BoundaryBand(radius=1, outside=True),
    BoundaryBand(inside=2.0, outside=0.5),
    TeacherConfidence(),
    TeacherConfidence(tau=3.0),
    Disagreement(),
    Disagreement('js'),
    ClassBalance(),
    ClassBalance([3, 2, 1], power=0.5),
    Focal(),
    Focal(target='teacher'),
]


@pytest.mark.parametrize('part', PARTS, ids=lambda part: type(part).__name__)
def test_every_part_gives_weights_at_the_students_map_without_gradient(part):
    batch = batch_of(label_maps())
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        student = draw(2, 3, 6, 8).to(dtype).requires_grad_()
        for teacher in (draw(2, 3, 6, 8, seed=1), draw(2, 3, 3, 4, seed=1)):
            weight = part(batch, student, teacher.to(dtype).requires_grad_())
            assert weight.shape == (2, 6, 8)
            assert weight.dtype in (torch.float32, torch.float64)
            assert not weight.requires_grad
            assert (weight >= 0).all()
            assert weight.isfinite().all()


@pytest.mark.parametrize('part', PARTS, ids=lambda part: type(part).__name__)
def test_half_precision_and_autocast_change_nothing(part):
    batch = batch_of(label_maps())
    student, teacher = (draw(2, 3, 6, 8, seed=i).bfloat16() for i in range(2))
    weight = part(batch, student.float(), teacher.float())
    assert torch.equal(part(batch, student, teacher), weight)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(part(batch, student, teacher), weight)


@pytest.mark.parametrize('part', PARTS, ids=lambda part: type(part).__name__)
def test_an_image_beside_it_twice_changes_nothing(part):
    labels = label_maps()
    student, teacher = draw(2, 3, 6, 8), draw(2, 3, 6, 8, seed=1)
    weight = part(batch_of(labels), student, teacher)
    twice = [torch.cat([x, x]) for x in (labels, student, teacher)]
    assert torch.allclose(part(batch_of(twice[0]), *twice[1:]), torch.cat([weight, weight]))


@pytest.mark.parametrize('part', [*PARTS, Boxes()], ids=lambda part: type(part).__name__)
def test_every_part_is_registered(part):
    options = dict(frequencies=[1, 2]) if isinstance(part, ClassBalance) else {}
    assert type(build_part(dict(type=type(part).__name__, **options))) is type(part)


# ---------------------------------------------------------------------- the band


def slow_band(labels: Tensor, radius: int) -> Tensor:
    band = torch.zeros_like(labels, dtype=torch.bool)
    for n, y, x in torch.ones_like(labels).nonzero().tolist():
        rows = slice(max(y - radius, 0), y + radius + 1)
        window = labels[n, rows, max(x - radius, 0) : x + radius + 1]
        band[n, y, x] = len(set(window[window != 255].tolist())) > 1
    return band


@pytest.mark.parametrize('radius', [0, 1, 2, 5])
def test_the_band_is_where_a_window_holds_two_classes(radius):
    labels = label_maps()
    band = boundary_band(labels, labels != 255, radius)
    assert torch.equal(band, slow_band(labels, radius))
    assert band.any() == (radius > 0)


def test_the_border_of_an_ignored_region_is_no_edge():
    labels = torch.full((1, 8, 8), 4)
    labels[:, 2:5, 2:5] = 255
    assert not boundary_band(labels, labels != 255, 3).any()
    labels[:, 3, 3] = 5  # across ignored pixels there is an edge
    assert boundary_band(labels, labels != 255, 3).any()
    nothing = torch.full((1, 8, 8), 255)
    assert not boundary_band(nothing, nothing != 255, 3).any()


def test_the_weight_is_the_share_of_a_cell_in_the_band():
    labels = label_maps()
    weight = BoundaryBand(radius=1)(batch_of(labels), torch.zeros(2, 3, 3, 4))
    share = slow_band(labels, 1).float().view(2, 3, 4, 4, 4).mean((2, 4))
    assert torch.allclose(weight, share)
    assert ((share > 0) & (share < 1)).any()
    outside = BoundaryBand(radius=1, outside=True)(batch_of(labels), torch.zeros(2, 3, 3, 4))
    assert torch.allclose(weight + outside, torch.ones_like(weight))
    other = BoundaryBand(radius=1, inside=3.0, outside=0.5)(
        batch_of(labels), torch.zeros(2, 3, 3, 4)
    )
    assert torch.allclose(other, 3 * weight + 0.5 * outside)


def test_without_a_band_the_body_is_all_and_the_band_nothing():
    """Radius 0: pure body; one class: the same."""
    student, teacher = draw(2, 3, 6, 8), draw(2, 3, 6, 8, seed=1)
    whole = torch.zeros(2, 12, 16, dtype=torch.long)
    for labels, radius in ((label_maps(), 0), (whole, 3)):
        batch = batch_of(labels)
        inside = BoundaryBand(radius)(batch, student)
        outside = BoundaryBand(radius, outside=True)(batch, student)
        assert pixel_wise_kl(student, teacher, weight=inside) == 0
        plain = channel_wise_kl(student, teacher)
        assert torch.equal(channel_wise_kl(student, teacher, weight=outside), plain)


def test_both_sides_of_the_band_with_one_loss_are_the_loss():
    """Weighted by their sums, pixel-wise inside and outside add up to the plain mean."""
    student, teacher = draw(2, 3, 6, 8), draw(2, 3, 6, 8, seed=1)
    parts = [BoundaryBand(1), BoundaryBand(1, outside=True)]
    weights = [part(batch_of(label_maps()), student) for part in parts]
    values = [pixel_wise_kl(student, teacher, weight=w) * w.sum() / 96 for w in weights]
    assert sum(values).item() == pytest.approx(pixel_wise_kl(student, teacher).item(), rel=1e-6)


# ---------------------------------------------------------------------- class logits


def test_confidence_by_a_loop_and_at_its_limits():
    teacher = draw(2, 5, 3, 4).double()
    weight = TeacherConfidence()(None, teacher, teacher)
    for n, y, x in torch.ones(2, 3, 4).nonzero().tolist():
        p = teacher[n, :, y, x].exp() / teacher[n, :, y, x].exp().sum()
        entropy = -sum(q.item() * math.log(q.item()) for q in p)
        assert weight[n, y, x].item() == pytest.approx(1 - entropy / math.log(5), rel=1e-9)
    sure = torch.eye(5)[:1] * 400
    assert TeacherConfidence()(None, sure, sure) == 1
    assert TeacherConfidence()(None, sure, torch.full((1, 5), 3.0)) == 0
    assert TeacherConfidence(tau=1e6)(None, sure, sure) < 1e-6
    assert torch.allclose(weight, TeacherConfidence()(None, teacher, teacher + 7))


@pytest.mark.parametrize('distance', ['total-variation', 'js'])
def test_disagreement_by_a_loop_and_at_its_limits(distance):
    student, teacher = draw(2, 5, 3, 4).double(), draw(2, 5, 3, 4, seed=1).double()
    weight = Disagreement(distance)(None, student, teacher)
    for n, y, x in torch.ones(2, 3, 4).nonzero().tolist():
        p, q = student[n, :, y, x].softmax(0), teacher[n, :, y, x].softmax(0)
        middle = (p + q) / 2
        expected = (p - q).abs().sum() / 2
        if distance == 'js':
            halves = (p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()
            expected = halves / 2 / math.log(2)
        assert weight[n, y, x].item() == pytest.approx(expected.item(), rel=1e-9)
    assert (Disagreement(distance)(None, student, student) == 0).all()
    one, other = torch.eye(5)[:1] * 400, torch.eye(5)[1:2] * 400
    assert Disagreement(distance)(None, one, other).item() == pytest.approx(1)
    assert torch.allclose(weight, Disagreement(distance)(None, teacher, student))


def test_focal_takes_the_label_and_the_teachers_class_where_there_is_none():
    labels = label_maps((3, 4))
    student, teacher = draw(2, 3, 3, 4), draw(2, 3, 3, 4, seed=1)
    weight = Focal(gamma=1.5)(batch_of(labels), student, teacher)
    for n, y, x in torch.ones(2, 3, 4).nonzero().tolist():
        right = labels[n, y, x].item()
        right = teacher[n, :, y, x].argmax().item() if right == 255 else right
        p = student[n, :, y, x].softmax(0)[right].item()
        assert weight[n, y, x].item() == pytest.approx((1 - p) ** 1.5, rel=1e-5)
    assert (labels == 255).any()
    assert (Focal(gamma=0.0)(batch_of(labels), student, teacher) == 1).all()
    unlabelled = batch_of(torch.full_like(labels, 255))
    own = Focal(target='teacher')(None, student, teacher)
    assert torch.equal(Focal()(unlabelled, student, teacher), own)


# ---------------------------------------------------------------------- classes


def test_balance_by_a_loop():
    labels = label_maps((3, 4))
    weight = ClassBalance()(batch_of(labels), torch.zeros(2, 3, 3, 4))
    known = labels[labels != 255].tolist()
    share = {k: known.count(k) / len(known) for k in set(known)}
    raw = [1 / share[k] for k in known]
    expected = [one / (sum(raw) / len(raw)) for one in raw]
    assert weight[labels != 255].tolist() == pytest.approx(expected, rel=1e-6)
    assert weight[labels != 255].mean().item() == pytest.approx(1, rel=1e-6)
    assert (weight[labels == 255] == 1).all()
    sums = [weight[labels == k].sum().item() for k in share]
    assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-6)  # one class as much as another


def test_balance_of_given_frequencies():
    labels = label_maps((3, 4))
    student = torch.zeros(2, 3, 3, 4)
    given = [5.0, 1.0, 2.0]
    weight = ClassBalance(given, power=2.0)(batch_of(labels), student)
    known = labels != 255
    raw = torch.tensor(given)[labels[known]] ** -2
    assert torch.allclose(weight[known], raw / raw.mean())
    in_percent = ClassBalance([100 * one for one in given], power=2.0)(batch_of(labels), student)
    assert torch.allclose(weight, in_percent)
    even = ClassBalance([7, 7, 7])(batch_of(labels), student)
    assert torch.allclose(even, torch.ones_like(even))


def test_balance_of_absent_classes_of_none_and_of_images():
    student = torch.zeros(2, 3, 4, 4)
    one = batch_of(torch.ones(2, 4, 4, dtype=torch.long))
    assert (ClassBalance(power=3.0)(one, student) == 1).all()
    assert (ClassBalance()(batch_of(torch.full((2, 4, 4), 255)), student) == 1).all()
    labels = torch.tensor([0, 0, 2])
    images = SimpleNamespace(labels=labels, valid=labels >= 0, ignored=-100, task=None)
    assert ClassBalance()(images, torch.zeros(3, 3)).tolist() == [0.75, 0.75, 1.5]


# ---------------------------------------------------------------------- boxes


def slow_boxes(boxes: list[Tensor], size: tuple[int, int], stride: int) -> Tensor:
    weight = torch.zeros(len(boxes), *size)
    for n, own in enumerate(boxes):
        for left, top, right, bottom in own.tolist():
            cells = [
                (y, x)
                for y in range(size[0])
                for x in range(size[1])
                if x * stride < right and (x + 1) * stride > left
                if y * stride < bottom and (y + 1) * stride > top
            ]
            for y, x in cells:
                weight[n, y, x] = max(weight[n, y, x].item(), 1 / len(cells))
    return weight


def boxes_of(number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * 40
    sides = torch.rand(number, 2, generator=generator) * 20 + 1
    return torch.cat([corners, corners + sides], 1)


@pytest.mark.parametrize('stride', [4, 8, 16, 64])
def test_boxes_by_a_loop_at_every_level(stride):
    boxes = [boxes_of(4), torch.zeros(0, 4), boxes_of(1, seed=1)]
    batch = SimpleNamespace(inputs=torch.zeros(3, 3, 64, 64), boxes=boxes)
    size = (64 // stride, 64 // stride)
    student = torch.zeros(3, 8, *size)
    inside = slow_boxes(boxes, size, stride)
    assert torch.allclose(Boxes()(batch, student), inside)
    background = inside == 0
    count = background.sum((1, 2), keepdim=True).clamp(min=1)
    outside = Boxes(outside=True)(batch, student)
    assert torch.allclose(outside, background / count)
    assert outside[1].sum().item() == pytest.approx(1)
    both = Boxes(inside=2.0, outside=3.0)(batch, student)
    assert torch.allclose(both, 2 * inside + 3 * outside)


def test_a_box_counts_one_in_sum_however_large():
    for box in ([0.0, 0.0, 64.0, 64.0], [3.0, 5.0, 4.0, 6.0], [8.0, 8.0, 24.0, 16.0]):
        share = share_of_boxes(torch.tensor([box]), (8, 8), (8.0, 8.0))
        assert share.sum().item() == pytest.approx(1)
    assert (share > 0).sum() == 2  # 16 by 8 pixels are two cells: nothing is added at the end


def test_boxes_beyond_the_image_and_of_no_area():
    share = share_of_boxes(torch.tensor([[-9.0, -9.0, 8.0, 8.0]]), (2, 2), (8.0, 8.0))
    assert share.tolist() == [[1, 0], [0, 0]]
    nothing = torch.tensor([[20.0, 20.0, 30.0, 30.0], [4.0, 4.0, 4.0, 9.0]])
    assert not share_of_boxes(nothing, (2, 2), (8.0, 8.0)).any()


def test_boxes_are_those_of_the_samples():
    structures = pytest.importorskip('mmdet.structures')
    bboxes = pytest.importorskip('mmdet.structures.bbox')
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    labels = torch.zeros(1, dtype=torch.long)
    for own in (boxes, bboxes.HorizontalBoxes(boxes)):
        instances = InstanceData(bboxes=own, labels=labels)
        batch = Batch(torch.zeros(1, 3, 16, 16), [structures.DetDataSample(gt_instances=instances)])
        assert torch.equal(batch.boxes[0], boxes)
        assert Boxes()(batch, torch.zeros(1, 4, 2, 2)).tolist() == [[[1, 0], [0, 0]]]
    with pytest.raises(ValueError, match='no boxes. Mend'):
        Boxes()(batch_of(label_maps()), torch.zeros(2, 3, 3, 4))


# ---------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: BoundaryBand(radius=-1), 'radius of BoundaryBand must be a whole number'),
        (lambda: BoundaryBand(radius=1.5), 'radius of BoundaryBand must be a whole number'),
        (lambda: BoundaryBand(inside=-1.0), 'inside of BoundaryBand must be a finite number, 0'),
        (lambda: BoundaryBand(outside=math.inf), 'outside of BoundaryBand must be a finite'),
        (lambda: BoundaryBand(inside=0.0), 'leave nothing that counts'),
        (lambda: Boxes(inside=0), 'Boxes: inside=0 and outside=0'),
        (lambda: TeacherConfidence(tau=0), 'tau of TeacherConfidence must be'),
        (lambda: Disagreement('l2'), "distance of Disagreement must be one of .*got 'l2'"),
        (lambda: Disagreement(tau=-1), 'tau of Disagreement must be'),
        (lambda: ClassBalance([1.0]), 'two classes or more'),
        (lambda: ClassBalance([1.0, 0.0]), 'numbers above 0'),
        (lambda: ClassBalance(power=0), 'power of ClassBalance'),
        (lambda: Focal(gamma=-1), 'gamma of Focal'),
        (lambda: Focal(target='label'), "did you mean 'labels'"),
        (lambda: Where(reads=['teacher.logits']), 'reads of Where must be a dictionary'),
        (lambda: Where(reads=dict(teachr='t.logits')), "did you mean 'teacher'"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


LABELS_OF_IMAGES = SimpleNamespace(
    labels=torch.tensor([0, 1]), valid=torch.tensor([True, True]), ignored=-100, task=None
)


@pytest.mark.parametrize(
    ('part', 'given', 'message'),
    [
        (BoundaryBand(), (LABELS_OF_IMAGES, torch.zeros(2, 3)), 'needs label maps'),
        (ClassBalance(), (LABELS_OF_IMAGES, torch.zeros(2, 3, 4, 4)), r'ClassBalance gave \(2,\)'),
        (TeacherConfidence(), (None, torch.zeros(2, 3), None), 'class logits .* of the teacher'),
        (
            TeacherConfidence(),
            (None, torch.zeros(2, 3), torch.zeros(2, 1)),
            'softmax over a single class',
        ),
        (Disagreement(), (None, torch.zeros(2, 3), torch.zeros(2, 4)), 'one set of classes'),
        (Boxes(), (None, torch.zeros(2, 3)), 'Boxes weighs maps'),
        (Where(), (None, torch.zeros(2, 3)), 'does not say how much a position counts'),
    ],
)
def test_bad_inputs(part: Where, given: Any, message: str):
    with pytest.raises((ValueError, NotImplementedError), match=message):
        part(*given)


def test_a_volume_is_averaged_too():
    weight = torch.arange(8.0).view(1, 2, 2, 2)
    assert at_size(weight, torch.zeros(1, 5, 1, 2, 1)).tolist() == [[[[2.5], [4.5]]]]


@pytest.mark.slow
def test_balance_of_two_ranks_is_that_of_one_process(tmp_path):
    ranks(two_ranks_where.work, tmp_path)
    labels = two_ranks_where.labels()
    weight = ClassBalance()(batch_of(labels), torch.zeros(2, 3, 4, 4))
    for rank in range(2):
        found = json.loads((tmp_path / f'rank{rank}.json').read_text())
        assert found == pytest.approx(weight[rank].flatten().tolist())
