"""DIST, position by position and class by class, from its equation."""

import math
from collections.abc import Sequence

from torch import Tensor


def softmax(z: Sequence[float]) -> list[float]:
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Pearson's."""
    x, y = ([v - sum(z) / len(z) for v in z] for z in (a, b))
    length = math.sqrt(sum(v * v for v in x)) * math.sqrt(sum(v * v for v in y))
    return sum(v * w for v, w in zip(x, y, strict=True)) / length


def dist(
    student: Tensor,
    teacher: Tensor,
    tau: float,
    inter: float = 1.0,
    intra: float = 1.0,
    mask: Tensor | None = None,
) -> float:
    """Return τ² · (β · mean of 1 − ρ over places + γ · mean of 1 − ρ over classes)."""
    rows = [x.movedim(1, -1).reshape(-1, x.shape[1]).tolist() for x in (student, teacher)]
    valid = [True] * len(rows[0]) if mask is None else mask.flatten().tolist()
    s, t = (
        [softmax([v / tau for v in z]) for z, own in zip(x, valid, strict=True) if own]
        for x in rows
    )
    by_place = [1 - correlation(a, b) for a, b in zip(s, t, strict=True)]
    columns = zip(zip(*s, strict=True), zip(*t, strict=True), strict=True)
    by_class = [1 - correlation(a, b) for a, b in columns]
    return tau**2 * (inter * sum(by_place) / len(by_place) + intra * sum(by_class) / len(by_class))
