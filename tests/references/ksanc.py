"""KSANC image by image and position by position, as its equations print it."""

import math
from collections.abc import Sequence

from torch import Tensor


def logit_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> float:
    """Return the mean over valid positions of Σ_c (s − t)²."""
    n, c = student.shape[:2]
    s, t = (x.reshape(n, c, -1).tolist() for x in (student, teacher))
    total, valid = 0.0, 0
    for i in range(n):
        for p in range(len(s[0][0])):
            if mask is None or mask.reshape(n, -1)[i, p]:
                total += sum((s[i][k][p] - t[i][k][p]) ** 2 for k in range(c))
                valid += 1
    return total / max(valid, 1)


def linear(weight: Tensor, bias: Tensor | None, x: Sequence[float]) -> list[float]:
    rows = weight.tolist()
    add = [0.0] * len(rows) if bias is None else bias.tolist()
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(rows, add, strict=True)
    ]


def squeeze(
    stage: Tensor,
    g: Tensor,
    score: Tensor,
    descriptor: tuple[Tensor, Tensor],
    transform: tuple[Tensor, Tensor] | None,
    multiply: str,
    pooling: str,
) -> list[float]:
    """Return the squeezed descriptor of one image: transform, fuse, softmax over places, multiply,
    pool.
    """
    places = [stage[:, y, x].tolist() for y in range(stage.shape[1]) for x in range(stage.shape[2])]
    if transform is not None:
        places = [linear(*transform, v) for v in places]
    g_b = linear(*descriptor, g.tolist())
    fused = [[a + b for a, b in zip(v, g_b, strict=True)] for v in places]
    scores = [linear(score, None, v)[0] for v in fused]
    e = [math.exp(s - max(scores)) for s in scores]
    m = [v / sum(e) for v in e]
    product = fused if multiply == 'fused' else places
    total = [sum(m[p] * product[p][f] for p in range(len(m))) for f in range(len(g_b))]
    return total if pooling == 'sum' else [v / len(m) for v in total]


def distance(student: list[list[list[float]]], teacher: list[list[list[float]]]) -> float:
    """Return the mean over images of Σ over stages and channels of (s − t)²; descriptors by stage,
    image, channel.
    """
    images = len(student[0])
    return (
        sum(
            (a - b) ** 2
            for s, t in zip(student, teacher, strict=True)
            for i in range(images)
            for a, b in zip(s[i], t[i], strict=True)
        )
        / images
    )


def cross_entropy(scores: Sequence[float], label: int) -> float:
    return math.log(sum(math.exp(s - max(scores)) for s in scores)) + max(scores) - scores[label]


def critic_losses(
    fake: list[list[float]],
    real: list[list[float]],
    labels: list[int],
    weights: list[float],
    l1: float,
    l2: float,
    sample: float,
) -> tuple[float, float]:
    """Return both losses from the scores [d, c_1, …, c_C] of each position, with log D as
    printed.
    """

    def d(score: float) -> float:
        return 1 / (1 + math.exp(-score))

    n = len(fake)
    ce_fake, ce_real = (
        sum(cross_entropy(v[1:], y) for v, y in zip(x, labels, strict=True)) / n
        for x in (fake, real)
    )
    student = -sum(math.log(d(v[0])) for v in fake) / n + ce_fake
    critic = (
        -sum(math.log(d(v[0])) for v in real) / n - sum(math.log(1 - d(v[0])) for v in fake) / n
    )
    critic += l1 * sum(map(abs, weights)) + l2 * sum(w * w for w in weights)
    critic -= sample * sum(math.log(d(v[0])) for v in fake) / n
    return student, critic + ce_fake + ce_real
