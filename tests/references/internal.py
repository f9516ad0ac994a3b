"""KD from internal representations sentence by sentence and key by key, as its equations print
it.
"""

import math

from torch import Tensor


def attention_kl(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, average: bool = False
) -> float:
    """Return the mean over heads and valid rows of Σ_k A_T ln(A_T / A_S)."""
    total, rows = 0.0, 0
    for n in range(len(student)):
        for q in range(student.shape[2]):
            if mask is not None and not mask[n, q]:
                continue
            rows += 1
            heads = (
                [
                    (student[n, a, q].tolist(), teacher[n, a, q].tolist())
                    for a in range(student.shape[1])
                ]
                if not average
                else [
                    tuple(
                        [
                            sum(x[n, a, q, k].item() for a in range(x.shape[1])) / x.shape[1]
                            for k in range(x.shape[3])
                        ]
                        for x in (student, teacher)
                    )
                ]
            )
            total += sum(
                t * math.log(t / s)
                for a_s, a_t in heads
                for s, t in zip(a_s, a_t, strict=True)
                if t
            ) / len(heads)
    return total / max(rows, 1)


def cosine(a: list[float], b: list[float]) -> float:
    """Return 1 − cos."""
    dot, na, nb = sum(x * y for x, y in zip(a, b, strict=True)), math.hypot(*a), math.hypot(*b)
    return 1 - (dot / (na * nb) if na and nb else 0.0)


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> float:
    """Return the mean over valid states of 1 − cos."""
    d = student.shape[-1]
    keep = [True] * (student.numel() // d) if mask is None else mask.flatten().tolist()
    found = [
        cosine(a, b)
        for a, b, k in zip(
            student.reshape(-1, d).tolist(), teacher.reshape(-1, d).tolist(), keep, strict=True
        )
        if k
    ]
    return sum(found) / max(len(found), 1)


def prototypes(x: Tensor, labels: Tensor, ignore: int) -> list[list[float]]:
    """Return the mean state of every class of every image."""
    found = []
    for n in range(len(x)):
        for c in sorted(set(labels[n].flatten().tolist()) - {ignore}):
            places = [
                x[n, :, i, j].tolist()
                for i in range(x.shape[2])
                for j in range(x.shape[3])
                if labels[n, i, j] == c
            ]
            found.append([sum(v) / len(places) for v in zip(*places, strict=True)])
    return found
