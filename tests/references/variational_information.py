"""Variational information distillation, one number at a time."""

import math

from torch import Tensor


def variational_information(
    student: Tensor,
    teacher: Tensor,
    variance: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the weighted mean over valid positions, and over channels, of the likelihood."""
    n, c = student.shape[:2]
    s, t = (x.reshape(n, c, -1).tolist() for x in (student, teacher))
    v = variance.tolist()
    above = total = 0.0
    for k in range(n):
        for i in range(len(s[0][0])):
            if mask is not None and not mask.reshape(n, -1)[k, i]:
                continue
            w = 1.0 if weight is None else weight.reshape(n, -1)[k, i].item()
            nll = [((s[k][j][i] - t[k][j][i]) ** 2 / v[j] + math.log(v[j])) / 2 for j in range(c)]
            above += w * sum(nll) / c
            total += w
    return above / total if total else 0.0
