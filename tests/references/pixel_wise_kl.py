"""Pixel-wise KL, position by position and class by class, as equation 1 of Structured KD has it."""

import math

from torch import Tensor


def softmax(z: list[float]) -> list[float]:
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def pixel_wise_kl(
    student: Tensor, teacher: Tensor, tau: float, direction: str, mask: Tensor | None = None
) -> float:
    """Return τ² · mean over valid positions of Σ_c p ln(p / q); p = teacher for 'forward', student
    for 'reverse'.
    """
    n, c = student.shape[:2]
    student, teacher = (x.reshape(n, c, -1) for x in (student, teacher))
    total, valid = 0.0, 0
    for i in range(n):
        for p in range(student.shape[2]):
            if mask is not None and not mask.reshape(n, -1)[i, p]:
                continue
            q_s, q_t = (
                softmax([x[i, k, p].item() / tau for k in range(c)]) for x in (student, teacher)
            )
            a, b = (q_t, q_s) if direction == 'forward' else (q_s, q_t)
            total += sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))
            valid += 1
    return tau**2 * total / max(valid, 1)
