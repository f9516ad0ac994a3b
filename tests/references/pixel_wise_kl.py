"""Pixel-wise KL, position by position and class by class, as equation 1 of Structured KD has it."""

import math
from typing import Any

from torch import Tensor


def softmax(z: list[float]) -> list[float]:
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def standardized(z: list[float]) -> list[float]:
    mean = sum(z) / len(z)
    std = math.sqrt(sum((v - mean) ** 2 for v in z) / (len(z) - 1))
    return [(v - mean) / (std + 1e-7) for v in z]


def kl(p: list[float], q: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


def divergence(student: list[float], teacher: list[float], direction: Any) -> float:
    """Return KL both ways, Jensen-Shannon, or the α-β divergence with p the teacher."""
    if direction in ('forward', 'reverse'):
        return kl(*((teacher, student) if direction == 'forward' else (student, teacher)))
    if direction == 'js':
        mean = [(x + y) / 2 for x, y in zip(student, teacher, strict=True)]
        return (kl(student, mean) + kl(teacher, mean)) / 2
    _, a, b = direction
    return -sum(
        p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
        for p, q in zip(teacher, student, strict=True)
    ) / (a * b)


def pixel_wise_kl(
    student: Tensor,
    teacher: Tensor,
    tau: float,
    direction: Any,
    mask: Tensor | None = None,
    standardize: bool = False,
) -> float:
    """Return τ² · mean over valid positions of the divergence."""
    n, c = student.shape[:2]
    student, teacher = (x.reshape(n, c, -1) for x in (student, teacher))
    total, valid = 0.0, 0
    for i in range(n):
        for p in range(student.shape[2]):
            if mask is not None and not mask.reshape(n, -1)[i, p]:
                continue
            rows = [[x[i, k, p].item() for k in range(c)] for x in (student, teacher)]
            if standardize:
                rows = [standardized(z) for z in rows]
            q_s, q_t = (softmax([v / tau for v in z]) for z in rows)
            total += divergence(q_s, q_t, direction)
            valid += 1
    return tau**2 * total / max(valid, 1)
