"""JML and Dice, class by class and place by place, from their equations."""

import math

from torch import Tensor


def softmax(z: list[float]) -> list[float]:
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def soft_jaccard(
    student: Tensor, teacher: Tensor, metric: str, scope: str, mask: Tensor | None = None
) -> float:
    """Return the mean over classes, and over images that have a place, of 1 − tp / union."""
    if scope == 'image':
        images = [
            (student[i : i + 1], teacher[i : i + 1], None if mask is None else mask[i : i + 1])
            for i in range(len(student))
            if mask is None or mask[i].any()
        ]
        each = [soft_jaccard(s, t, metric, 'batch', m) for s, t, m in images]
        return sum(each) / max(len(each), 1)
    rows = [x.movedim(1, -1).reshape(-1, x.shape[1]).tolist() for x in (student, teacher)]
    valid = [True] * len(rows[0]) if mask is None else mask.flatten().tolist()
    p, q = ([softmax(z) for z, own in zip(x, valid, strict=True) if own] for x in rows)
    total = 0.0
    for a, b in zip(zip(*p, strict=True), zip(*q, strict=True), strict=True):
        tp = (sum(a) + sum(b) - sum(abs(x - y) for x, y in zip(a, b, strict=True))) / 2
        if metric == 'jaccard':
            total += 1 - tp / (sum(a) + sum(b) - tp)
        else:
            total += 1 - 2 * tp / (sum(a) + sum(b))
    return total / student.shape[1]
