"""DKD, GDKD, NKD, WSLD, OFA, PS-KD and exits, position by position, from their equations."""

import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

Row = tuple[list[float], list[float], int]


def softmax(z: Sequence[float]) -> list[float]:
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def rows(
    student: Tensor, teacher: Tensor, labels: Tensor | None, mask: Tensor | None
) -> Iterator[Row]:
    """Yield the logits and the label of every place that counts."""
    s, t = (x.movedim(1, -1).reshape(-1, x.shape[1]).tolist() for x in (student, teacher))
    y = [0] * len(s) if labels is None else labels.flatten().tolist()
    own = [True] * len(s) if mask is None else mask.flatten().tolist()
    for place, counts in enumerate(own):
        if counts and 0 <= y[place] < student.shape[1]:
            yield s[place], t[place], y[place]


def mean(values: Callable[[Row], float], all_rows: Iterator[Row]) -> float:
    each = [values(row) for row in all_rows]
    return sum(each) / max(len(each), 1)


def split(p: list[float], front: set[int]) -> tuple[list[float], list[float], list[float]]:
    """Return both masses, the distribution within the front, and within the rest."""
    mass = sum(p[c] for c in front)
    others = set(range(len(p))) - front
    rest = sum(p[c] for c in others)
    return [mass, rest], [p[c] / mass for c in sorted(front)], [p[c] / rest for c in sorted(others)]


def decoupled_kl(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    tau: float,
    alpha: float,
    beta: float,
    mask: Tensor | None = None,
) -> float:
    """Return τ² · mean over labelled places of α KL(b_t ‖ b_s) + β KL(q_t ‖ q_s)."""

    def value(row: Row) -> float:
        s, t = (split(softmax([v / tau for v in z]), {row[2]}) for z in row[:2])
        return alpha * kl(t[0], s[0]) + beta * kl(t[2], s[2])

    return tau**2 * mean(value, rows(student, teacher, labels, mask))


def top_k_decoupled_kl(
    student: Tensor,
    teacher: Tensor,
    k: int,
    weights: Sequence[float],
    tau: float,
    mask: Tensor | None = None,
) -> float:
    """Return τ² · mean of w₀ KL of masses + w₁ KL within the first k + w₂ KL within the rest."""

    def value(row: Row) -> float:
        order = sorted(range(len(row[1])), key=lambda c: -row[1][c])
        s, t = (split(softmax([v / tau for v in z]), set(order[:k])) for z in row[:2])
        return sum(w * kl(b, a) for w, a, b in zip(weights, s, t, strict=True))

    return tau**2 * mean(value, rows(student, teacher, None, mask))


def normalized_kl(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    gamma: float,
    tau: float,
    mask: Tensor | None = None,
) -> float:
    """Return −mean over labelled places of p_t ln p_s of the label + γ τ² Σ q_t ln q_s."""

    def value(row: Row) -> float:
        label = row[2]
        p_s, p_t = (softmax(z)[label] for z in row[:2])
        q_s, q_t = (split(softmax([v / tau for v in z]), {label})[2] for z in row[:2])
        of_rest = sum(b * math.log(a) for a, b in zip(q_s, q_t, strict=True))
        return -p_t * math.log(p_s) - gamma * tau**2 * of_rest

    return mean(value, rows(student, teacher, labels, mask))


def weighted_soft_labels(
    student: Tensor, teacher: Tensor, labels: Tensor, tau: float, mask: Tensor | None = None
) -> float:
    """Return τ² · mean over labelled places of (1 − exp(−H_s / H_t)) · soft cross-entropy."""

    def value(row: Row) -> float:
        h_s, h_t = (-math.log(softmax(z)[row[2]]) for z in row[:2])
        p, q = (softmax([v / tau for v in z]) for z in row[:2])
        soft = -sum(b * math.log(a) for a, b in zip(p, q, strict=True))
        return (1 - math.exp(-h_s / h_t)) * soft

    return tau**2 * mean(value, rows(student, teacher, labels, mask))


def boosted_target_ce(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    power: float,
    tau: float,
    mask: Tensor | None = None,
) -> float:
    """Return −τ² · mean over labelled places of Σ [(p_t + 1_y)^ε − 1_y] ln p_s."""

    def value(row: Row) -> float:
        p, q = (softmax([v / tau for v in z]) for z in row[:2])
        own = [float(c == row[2]) for c in range(len(p))]
        return -sum(
            ((b + one) ** power - one) * math.log(a) for a, b, one in zip(p, q, own, strict=True)
        )

    return tau**2 * mean(value, rows(student, teacher, labels, mask))


def mixed_target_ce(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float,
    mask: Tensor | None = None,
) -> float:
    """Return mean over labelled places of −Σ_c [(1 − α) 1_y + α p_t] ln p_s."""

    def value(row: Row) -> float:
        s, t = map(softmax, row[:2])
        return -sum(
            ((1 - alpha) * (c == row[2]) + alpha * t[c]) * math.log(s[c]) for c in range(len(s))
        )

    return mean(value, rows(student, teacher, labels, mask))
