"""Overlap of boxes, box by box, from its equation."""

from math import exp, log

from references.decoupled_kl import softmax
from torch import Tensor

Box = tuple[float, float, float, float]


def box_of(numbers: list[float], code: str, spread: tuple[float, ...]) -> Box:
    """Return left, top, right and bottom of a box."""
    if code == 'deltas':
        x, y, width, height = (
            number * factor for number, factor in zip(numbers, spread, strict=True)
        )
        most = log(1000 / 16)
        width, height = (exp(max(-most, min(most, size))) for size in (width, height))
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    distances = []
    size = len(numbers) // 4
    for k in range(0, len(numbers), size):
        if code == 'bins':
            shares = softmax(numbers[k : k + size])
            distances.append(sum(n * share for n, share in enumerate(shares)))
        else:
            distances.append(exp(numbers[k]) if code == 'exp' else max(numbers[k], 0.0))
    left, top, right, bottom = distances
    return -left, -top, right, bottom


def area_of(left: float, top: float, right: float, bottom: float) -> float:
    return max(right - left, 0.0) * max(bottom - top, 0.0)


def lack(one: Box, other: Box, penalty: str) -> float:
    """Return 1 − GIoU, or −ln IoU."""
    shared = area_of(
        max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
    )
    both = area_of(*one) + area_of(*other) - shared
    if penalty == 'log-iou':
        return -log(max(shared / both, 1e-6))
    around = area_of(
        min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
    )
    return 1 - (shared / both - (around - both) / around)


def box_overlap(
    student: Tensor,
    teacher: Tensor,
    code: str,
    penalty: str,
    spread: tuple[float, ...],
    mask: Tensor | None = None,
) -> float:
    """Return the mean over valid boxes with an area of what they lack of being one."""
    anchors = 1 if code == 'bins' else student.shape[1] // 4
    s, t = (
        x.unflatten(1, (anchors, -1)).movedim(2, -1).flatten(0, -2).tolist()
        for x in (student, teacher)
    )
    valid = [True] * len(s)
    if mask is not None:
        valid = mask.unsqueeze(1).expand(len(mask), anchors, *mask.shape[1:]).flatten().tolist()
    values = []
    for own, one, other in zip(valid, s, t, strict=True):
        ours, theirs = (box_of(numbers, code, spread) for numbers in (one, other))
        if own and area_of(*theirs) > 1e-6:
            values.append(lack(ours, theirs, penalty))
    return sum(values) / max(len(values), 1)
