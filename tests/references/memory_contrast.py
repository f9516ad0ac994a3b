"""Contrast with keys place by place and key by key, and rings as lists."""

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torch import Tensor


def cosine(a: list[float], b: list[float]) -> float:
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def log_softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    total = math.log(sum(math.exp(x - top) for x in scores)) + top
    return [x - total for x in scores]


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@cache
def mean_of_random(channels: int, tau: float) -> float:
    """Return the mean of e^(cos / tau) over random directions, by quadrature over the angle."""
    if channels == 1:
        return math.cosh(1 / tau)
    nodes, shares = np.polynomial.legendre.leggauss(300)
    angles = math.pi * (nodes + 1) / 2
    shares = shares * np.sin(angles) ** (channels - 2)
    return float((shares * np.exp(np.cos(angles) / tau)).sum() / shares.sum())


def of_place(
    s: list[float], t: list[float], keys: list[list[float]], tau: float, compare: str
) -> float:
    """Return the value of one place."""
    scores = [cosine(s, key) / tau for key in keys]
    own = cosine(s, t) / tau
    if not keys:
        return 0.0
    if compare == 'info-nce':
        return -log_softmax([own, *scores])[0]
    if compare == 'nce':
        b = math.log(len(keys)) + math.log(mean_of_random(len(s), tau))
        return softplus(b - own) + sum(softplus(x - b) for x in scores)
    theirs = log_softmax([cosine(t, key) / tau for key in keys])
    ours = log_softmax(scores)
    return sum(math.exp(q) * (q - p) for p, q in zip(ours, theirs, strict=True))


def memory_contrast(
    student: Tensor,
    teacher: Tensor,
    keys: Tensor,
    known: Tensor | None = None,
    tau: float = 0.1,
    compare: str = 'kl',
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the weighted mean over valid places."""
    there = [True] * len(keys) if known is None else known.tolist()
    rows = [row for row, own in zip(keys.tolist(), there, strict=True) if own]
    s, t = (x.movedim(1, -1).flatten(0, -2).tolist() for x in (student, teacher))
    counts = [True] * len(s) if mask is None else mask.flatten().tolist()
    weights = [1.0] * len(s) if weight is None else weight.flatten().tolist()
    above = total = 0.0
    for own, other, counted, w in zip(s, t, counts, weights, strict=True):
        if counted and w:
            above += w * of_place(own, other, rows, tau, compare)
            total += w
    return above / total if total else 0.0


def unit(row: list[float]) -> list[float]:
    length = math.hypot(*row)
    return [x / length for x in row]


class Rings:
    """One list for each group, which forgets its oldest."""

    def __init__(self, groups: int, size: int) -> None:
        self.size = size
        self.places: list[list[list[float] | None]] = [[None] * size for _ in range(groups)]
        self.next = [0] * groups

    def push(self, rows: Iterable[list[float]], group: int) -> None:
        for row in rows:
            self.places[group][self.next[group] % self.size] = row
            self.next[group] += 1

    def rows(self, channels: int) -> Tensor:
        """Return all places, as Ring.rows holds them."""
        empty = [0.0] * channels
        held = [place or empty for ring in self.places for place in ring]
        return torch.tensor([*held, empty], dtype=torch.float64)


def regions(teacher: Tensor, labels: Tensor, classes: int) -> list[tuple[int, list[float]]]:
    """Return class and region vector, image by image, class by class."""
    found = []
    for image, own in zip(teacher, labels, strict=True):
        places = list(zip(image.flatten(1).T.tolist(), own.flatten().tolist(), strict=True))
        for k in range(classes):
            rows = [unit(row) for row, label in places if label == k]
            if rows:
                mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
                found.append((k, unit(mean)))
    return found


def patch_contrast(
    student: Tensor,
    teacher: Tensor,
    groups: int,
    patch: int,
    pool: int,
    tau: float,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the mean of Af-DCD over valid pooled places and groups, one cross-entropy a time."""
    n, c, h, w = student.shape
    width = c // groups
    above = total = 0.0
    for k in range(n):
        pooled = {}
        for y in range(0, h, pool):
            for x in range(0, w, pool):
                window = [
                    (i, j)
                    for i in range(y, min(y + pool, h))
                    for j in range(x, min(x + pool, w))
                    if (mask is None or mask[k, i, j]) and (weight is None or weight[k, i, j] > 0)
                ]
                if window:
                    s, t = (
                        [max(m[k, d, i, j].item() for i, j in window) for d in range(c)]
                        for m in (student, teacher)
                    )
                    own = [1.0 if weight is None else weight[k, i, j].item() for i, j in window]
                    pooled[y // pool, x // pool] = s, t, sum(own) / len(own)
        for (y, x), (s, _, share) in pooled.items():
            near = {at: v for at, v in pooled.items() if _same_patch(at, (y, x), patch)}
            for m in range(groups):
                scores = [-_distance(s, pooled[y, x][1], m, m, width) / tau]
                for _, t, _ in near.values():
                    scores += [-_distance(s, t, m, o, width) / tau for o in range(groups) if o != m]
                above += share * -log_softmax(scores)[0] / groups
            total += share
    return above / total if total else 0.0


def _same_patch(a: tuple[int, int], b: tuple[int, int], patch: int) -> bool:
    return (a[0] // patch, a[1] // patch) == (b[0] // patch, b[1] // patch)


def _distance(s: list[float], t: list[float], m: int, n: int, width: int) -> float:
    return sum(abs(s[m * width + d] - t[n * width + d]) for d in range(width))
