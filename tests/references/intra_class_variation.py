"""IFVD image by image and position by position, as its equation prints it."""

import math

from torch import Tensor


def cosine(a: list[float], b: list[float]) -> float:
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def likeness(image: Tensor, classes: list[int | None]) -> list[float | None]:
    """Return the cosine of each position of (C, P) with the mean of its class; None of none."""
    rows = image.T.tolist()
    found: list[float | None] = []
    for i, own in enumerate(classes):
        same = [row for row, other in zip(rows, classes, strict=True) if other == own]
        centre = [sum(column) / len(same) for column in zip(*same, strict=True)]
        found.append(None if own is None else cosine(rows[i], centre))
    return found


def intra_class_variation(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the weighted mean over labelled, valid positions of (M_s − M_t)²."""
    n = len(student)
    above = total = 0.0
    for k in range(n):
        known = [True] * labels[k].numel() if mask is None else mask[k].flatten().tolist()
        weights = [1.0] * len(known) if weight is None else weight[k].flatten().tolist()
        classes = [
            label if counts and label != ignore_index else None
            for label, counts in zip(labels[k].flatten().tolist(), known, strict=True)
        ]
        ours, theirs = (likeness(x[k].flatten(1), classes) for x in (student, teacher))
        for a, b, w in zip(ours, theirs, weights, strict=True):
            if a is not None and b is not None:
                above += w * (a - b) ** 2
                total += w
    return above / total if total else 0.0
