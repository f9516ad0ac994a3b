"""Residual attention image by image, layer pair by layer pair, as its equation prints it."""

import math
from itertools import combinations

from references.attention_transfer import attention
from torch import Tensor


def residual(v: list[float]) -> list[float]:
    length = max(math.hypot(*v), 1e-3)
    return [x / length for x in v]


def residual_attention(
    student: list[Tensor],
    teacher: list[Tensor],
    power: float = 2.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the mean over pairs of the weighted mean over positions of P_n (R_s − R_t)²."""
    n, values = len(student[0]), []
    flat = [[x.reshape(n, x.shape[1], -1).tolist() for x in side] for side in (student, teacher)]
    for low, high in combinations(range(len(student)), 2):
        above = total = 0.0
        for k in range(n):
            places = [
                i
                for i in range(len(flat[0][0][k][0]))
                if mask is None or mask.reshape(n, -1)[k, i].item()
            ]
            ours, theirs = (
                residual(
                    [
                        b - a
                        for a, b in zip(
                            *(attention(side[layer][k], places, power) for layer in (low, high)),
                            strict=True,
                        )
                    ]
                )
                for side in flat
            )
            for i, a, b in zip(places, ours, theirs, strict=True):
                w = 1.0 if weight is None else weight.reshape(n, -1)[k, i].item()
                above += w * len(places) * (a - b) ** 2
                total += w
        values.append(above / total if total else 0.0)
    return sum(values) / len(values)
