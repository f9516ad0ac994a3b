"""BoxOverlapLoss by value."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.losses import BoxOverlapLoss, box_overlap
from mmkd.losses.boxes.decode import decode
from mmkd.losses.boxes.overlap import overlap_penalty

SIZES = ((4, 6), (2, 3))


def levels(channels: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, channels, *size, dtype=torch.float64, generator=generator) for size in SIZES
    ]


def box(*corners: float) -> Tensor:
    return torch.tensor(corners, dtype=torch.float64)


@pytest.mark.parametrize(
    ('other', 'giou', 'iou'),
    [
        ((0, 0, 2, 2), 0.0, 1.0),
        ((1, 1, 2, 2), 1 - 1 / 4, 1 / 4),  # within
        ((1, 1, 3, 3), 1 - 1 / 7 + (9 - 7) / 9, 1 / 7),  # at a corner
        ((2, 0, 4, 2), 1.0, 0.0),  # beside
        ((4, 0, 6, 2), 1 + (12 - 8) / 12, 0.0),  # apart
    ],
)
def test_by_hand(other: tuple, giou: float, iou: float) -> None:
    one = box(0, 0, 2, 2)
    assert overlap_penalty(one, box(*other)).item() == pytest.approx(giou)
    log = overlap_penalty(box(*other), one, 'log-iou')
    assert log.exp().item() == pytest.approx(1 / max(iou, 1e-6))


def test_apart_it_is_the_giou_that_has_a_gradient() -> None:
    for penalty, moves in (('giou', True), ('log-iou', False)):
        own = box(0, 0, 2, 2).requires_grad_()
        overlap_penalty(own, box(4, 0, 6, 2), penalty).backward()
        assert own.grad is not None
        assert bool(own.grad.any()) is moves


def test_no_axis_has_a_unit_or_an_origin() -> None:
    """So that neither strides nor anchors nor points are read."""
    one, other = box(0, 0, 3, 2), box(1, -1, 4, 1.5)
    factor, shift = box(7, 0.3, 7, 0.3), box(100, -5, 100, -5)
    for penalty in ('giou', 'log-iou'):
        torch.testing.assert_close(
            overlap_penalty(one * factor + shift, other * factor + shift, penalty),
            overlap_penalty(one, other, penalty),
        )


@pytest.mark.parametrize('penalty', ['giou', 'log-iou'])
@pytest.mark.parametrize('size', [1e-12, 1e-4, 1.0, 1e12])
def test_boxes_of_any_size_are_compared_alike(size: float, penalty: str) -> None:
    """In parts of the image a box of an area of 1e-7 is one of few pixels."""
    one, other = box(0, 0, 3, 2), box(1, -1, 4, 1.5)
    value = overlap_penalty(size * one, size * other, penalty)
    torch.testing.assert_close(value, overlap_penalty(one, other, penalty))
    own = (size * one).float().requires_grad_()
    value = overlap_penalty(own, own.detach(), penalty)
    value.backward()
    assert value == 0
    assert own.grad is not None
    assert (size * own.grad).abs().max() < 1e-6


def test_boxes_without_an_area_share_nothing() -> None:
    for other, giou in ((box(0, 0, 0, 0), 1.0), (box(1, 1, 1, 1), 2.0), (box(0, 0, 1, 0), 1.0)):
        own = box(0, 0, 0, 0).requires_grad_()
        value = overlap_penalty(own, other)
        assert value == giou
        assert torch.autograd.grad(value, own)[0].isfinite().all()


@pytest.mark.parametrize('code', ['exp', 'relu', 'bins', 'deltas'])
def test_no_step_waits_for_the_device(code: str) -> None:
    channels = 16 if code == 'bins' else 4
    student, teacher = (torch.randn(2, channels, 3, requires_grad=True) for _ in range(2))
    weight = torch.ones(2, 3)
    with torch.autograd.profiler.profile() as seen:
        box_overlap(student, teacher, code, weight=weight).backward()
    # numbers that go to Python, and such that come from there
    waits = {'aten::item', 'aten::_local_scalar_dense', 'aten::nonzero', 'aten::lift_fresh'}
    assert not waits & {event.name for event in seen.function_events}


def test_codes_say_the_same_of_the_same_box() -> None:
    """Distances 1, 2, 3, 4: of bins by certain ones, of deltas by centre (1, 1) and sides 4, 6."""
    distances = box(1, 2, 3, 4).view(1, 4)
    bins = torch.full((1, 4, 5), -1e3, dtype=torch.float64)
    bins[0, range(4), range(1, 5)] = 0
    deltas = torch.cat([box(1, 1), box(4, 6).log() / 2]).view(1, 4)
    expected = box(-1, -2, 3, 4).view(4, 1)
    torch.testing.assert_close(decode(distances.log(), 'exp'), expected)
    torch.testing.assert_close(decode(distances, 'relu'), expected)
    torch.testing.assert_close(decode(bins.flatten(1), 'bins'), expected)
    torch.testing.assert_close(decode(deltas, 'deltas', (1, 1, 2, 2)), expected)


def test_sides_of_deltas_are_bounded_as_mmdets() -> None:
    far = torch.tensor([[0.0, 0.0, 50.0, -50.0]], dtype=torch.float64)
    left, top, right, bottom = decode(far, 'deltas').flatten().tolist()
    assert right - left == pytest.approx(1000 / 16)
    assert bottom - top == pytest.approx(16 / 1000)


@pytest.mark.parametrize('code', ['exp', 'relu', 'bins', 'deltas'])
def test_mmdets_boxes_and_losses_agree(code: str) -> None:
    losses = pytest.importorskip('mmdet.models.losses', exc_type=ImportError)
    student, teacher = (x[0] for x in (levels(4, 1), levels(4, 2)))
    if code == 'relu':
        student, teacher = student.abs(), teacher.abs()
    if code == 'bins':
        student, teacher = levels(24, 1)[0], levels(24, 2)[0]
    s, t = (decode(x, code).flatten(1).T for x in (student, teacher))
    for penalty, kind in (('giou', losses.GIoULoss), ('log-iou', losses.IoULoss)):
        value = box_overlap(student, teacher, code, penalty)
        torch.testing.assert_close(value, kind()(s, t), rtol=1e-5, atol=0)


def test_anchors_and_levels_are_one_set_of_positions() -> None:
    """Each weighs as its own best class, and not below a score."""
    student, teacher, scores = levels(8, 1), levels(8, 2), levels(6, 3)
    total = weights = 0.0
    for s, t, c in zip(student, teacher, scores, strict=True):
        for a in range(2):
            ours, theirs = (decode(x[:, 4 * a : 4 * a + 4], 'deltas') for x in (s, t))
            weight = c[:, 3 * a : 3 * a + 3].amax(1).sigmoid()
            weight = weight * (weight >= 0.6)
            total += (weight * overlap_penalty(ours, theirs)).sum().item()
            weights += weight.sum().item()
    value = BoxOverlapLoss('deltas', least=0.6)(student, teacher, scores)
    assert value.item() == pytest.approx(total / weights)


def test_a_weight_is_how_often_a_position_counts() -> None:
    student, teacher = levels(8, 1)[0], levels(8, 2)[0]
    weight = torch.randint(0, 3, (2, 4, 6)).double()
    ones = torch.ones_like(weight)
    loss = BoxOverlapLoss('deltas')
    assert loss(student, teacher, weight=ones) == loss(student, teacher)
    assert loss(student, teacher, weight=weight * 5).item() == pytest.approx(
        loss(student, teacher, weight=weight).item()
    )
    mask = weight > 0
    torch.testing.assert_close(
        loss(student, teacher, mask=mask), loss(student, teacher, weight=mask.double())
    )


def test_a_teachers_box_without_an_area_is_left_out() -> None:
    student, teacher = levels(4, 1)[0].abs(), levels(4, 2)[0].abs()
    teacher[1] = -1.0
    value = box_overlap(student, teacher, 'relu')
    torch.testing.assert_close(value, box_overlap(student[:1], teacher[:1], 'relu'))
    assert box_overlap(student[1:], teacher[1:], 'relu') == 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(code='box'), "code must be one of .*got 'box'"),
        (dict(penalty='l1'), "penalty must be one of .*got 'l1'"),
        (dict(spread=(1.0, 1.0)), r'spread is four numbers.*got \(1.0, 1.0\).*Mend: target_stds'),
        (dict(spread=(1.0, 1.0, 0.0, 1.0)), 'spread must be a finite number above 0, got 0.0'),
        (dict(least=2.0), 'least must be'),
    ],
)
def test_options_that_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoxOverlapLoss(**options)


@pytest.mark.bad_input
def test_maps_that_it_refuses() -> None:
    one, other = levels(4, 1), levels(8, 2)
    with pytest.raises(ValueError, match='of one shape, got .*mend: heads of one kind'):
        BoxOverlapLoss('bins')(one, other)
    with pytest.raises(
        ValueError, match="with code='exp' needs 4 numbers a box.*mend: code='bins'"
    ):
        box_overlap(other[0], other[0])
    with pytest.raises(ValueError, match='needs 4 numbers a box'):
        BoxOverlapLoss('bins')(one, one)
    with pytest.raises(ValueError, match='overlap of boxes needs maps of the same levels.*mend'):
        BoxOverlapLoss()(one, one[:1])
    with pytest.raises(ValueError, match='numbers of 2 boxes a place.*mend: boxes and scores of'):
        BoxOverlapLoss('deltas')(other, other, levels(3, 1))
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        box_overlap(one[0], one[0], mask=torch.ones(2, 4, 6))
