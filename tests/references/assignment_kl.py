"""QUEST, position by position and word by word, as equations 2 to 5 have it."""

import math

from torch import Tensor


def softmax(z: list[float]) -> list[float]:
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def cosine(a: list[float], b: list[float]) -> float:
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / length if length else 0.0


def teacher_assignment(f: list[float], words: Tensor, tau: float) -> list[float]:
    """Return p_T: d_k = ‖v_k − f‖², softmax(−d / tau)."""
    return softmax(
        [-sum((v - x) ** 2 for v, x in zip(word, f, strict=True)) / tau for word in words.tolist()]
    )


def student_assignment(f: list[float], weight: Tensor, gamma: float) -> list[float]:
    """Return p_S: softmax(gamma · cos(W_k, f))."""
    return softmax([gamma * cosine(w, f) for w in weight.tolist()])


def assignment_kl(
    student: Tensor,
    teacher: Tensor,
    words: Tensor,
    weight: Tensor,
    tau: float,
    gamma: float,
    mask: Tensor | None = None,
) -> float:
    """Return the mean over valid positions of Σ_k p_T ln(p_T / p_S); a larger teacher map (N, C, H,
    W) is averaged.
    """
    total, valid = 0.0, 0
    n, _, height, width = student.shape
    r = teacher.shape[2] // height
    for i in range(n):
        for y in range(height):
            for x in range(width):
                if mask is not None and not mask[i, y, x]:
                    continue
                window = [
                    [
                        teacher[i, c, r * y + dy, r * x + dx].item()
                        for dy in range(r)
                        for dx in range(r)
                    ]
                    for c in range(teacher.shape[1])
                ]
                p_t = teacher_assignment([sum(values) / r**2 for values in window], words, tau)
                p_s = student_assignment(student[i, :, y, x].tolist(), weight, gamma)
                total += sum(a * math.log(a / b) for a, b in zip(p_t, p_s, strict=True) if a > 0)
                valid += 1
    return total / max(valid, 1)
