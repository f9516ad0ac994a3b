"""Channel-wise KL, group by group and place by place, from its equation."""

import math

from torch import Tensor


def softmax(z: list[float]) -> list[float]:
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def sizes(channels: int, groups: int) -> list[int]:
    """Return how many channels each group has: they differ by one at most."""
    return [channels // groups + (g < channels % groups) for g in range(groups)]


def channel_wise_kl(
    student: Tensor,
    teacher: Tensor,
    tau: float,
    groups: int | None = None,
    mask: Tensor | None = None,
) -> float:
    """Return τ² · mean over images with a valid place and groups of Σ_i φ_t ln(φ_t / φ_s)."""
    n, c = student.shape[:2]
    s, t = (x.reshape(n, c, -1).tolist() for x in (student, teacher))
    places = range(len(s[0][0]))
    total, count = 0.0, 0
    for i in range(n):
        valid = [p for p in places if mask is None or mask.reshape(n, -1)[i, p]]
        if not valid:
            continue
        first = 0
        for size in sizes(c, groups or c):
            own = [(k, p) for k in range(first, first + size) for p in valid]
            a, b = (softmax([x[i][k][p] / tau for k, p in own]) for x in (t, s))
            total += sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))
            first, count = first + size, count + 1
    return tau**2 * total / max(count, 1)
