"""Losses of an ensemble, position by position, member by member and class by class, from the
equations.
"""

import math

from references.pixel_wise_kl import softmax
from scipy.special import digamma
from torch import Tensor


def positions(
    student: Tensor, teachers: Tensor, mask: Tensor | None
) -> list[tuple[list[float], list[list[float]]]]:
    """Return (student logits, logits of each member) of every valid position."""
    n, c = student.shape[:2]
    student, teachers = student.reshape(n, c, -1), teachers.reshape(len(teachers), n, c, -1)
    return [
        (student[i, :, p].tolist(), teachers[:, i, :, p].tolist())
        for i in range(n)
        for p in range(student.shape[2])
        if mask is None or mask.reshape(n, -1)[i, p]
    ]


def log_density(pi: list[float], alpha: list[float]) -> float:
    """Return ln Dir(π; α)."""
    value = math.lgamma(sum(alpha)) - sum(math.lgamma(a) for a in alpha)
    return value + sum((a - 1) * math.log(p) for a, p in zip(alpha, pi, strict=True))


def kl(p: list[float], q: list[float]) -> float:
    """Return KL(Dir p‖Dir q), from E ln π_k = ψ(p_k) − ψ(p_0)."""
    value = (
        math.lgamma(sum(p))
        - sum(map(math.lgamma, p))
        - math.lgamma(sum(q))
        + sum(map(math.lgamma, q))
    )
    return value + sum((a - b) * (digamma(a) - digamma(sum(p))) for a, b in zip(p, q, strict=True))


def dirichlet_nll(
    student: Tensor,
    teachers: Tensor,
    temperature: float,
    smoothing: float,
    mask: Tensor | None = None,
) -> float:
    values = []
    for z, members in positions(student, teachers, mask):
        alpha = [math.exp(v / temperature) for v in z]
        for member in members:
            pi = [
                (1 - smoothing) * p + smoothing / len(z)
                for p in softmax([v / temperature for v in member])
            ]
            values.append(-log_density(pi, alpha))
    return temperature**2 * sum(values) / max(len(values), 1)


def proxy_dirichlet(
    student: Tensor, teachers: Tensor, direction: str, offset: float, mask: Tensor | None = None
) -> float:
    values = []
    for z, members in positions(student, teachers, mask):
        pis = [softmax(member) for member in members]
        mean = [sum(column) / len(pis) for column in zip(*pis, strict=True)]
        mkl = sum(m * math.log(m / p) for pi in pis for m, p in zip(mean, pi, strict=True)) / len(
            pis
        )
        precision = min((len(z) - 1) / (2 * mkl + 1e-8), 1e6)
        beta = [m * precision + offset for m in mean]
        alpha = [math.exp(v) + offset for v in z]
        values.append(kl(beta, alpha) if direction == 'forward' else kl(alpha, beta) / sum(beta))
    return sum(values) / max(len(values), 1)


def ensemble_kl(
    student: Tensor, teachers: Tensor, temperature: float, mask: Tensor | None = None
) -> float:
    values = []
    for z, members in positions(student, teachers, mask):
        q = softmax([v / temperature for v in z])
        pis = [softmax([v / temperature for v in member]) for member in members]
        mean = [sum(column) / len(pis) for column in zip(*pis, strict=True)]
        values.append(sum(a * math.log(a / b) for a, b in zip(mean, q, strict=True)))
    return temperature**2 * sum(values) / max(len(values), 1)
