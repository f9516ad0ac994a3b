"""Hierarchical context, one place and one cell at a time."""

import math
from collections.abc import Sequence

from torch import Tensor

Grid = list[list[list[float]]]  # of one image: places, then channels


def cells(side: int, k: int) -> list[range]:
    """Return which places of a side each of k cells of an adaptive pooling covers."""
    return [range(i * side // k, math.ceil((i + 1) * side / k)) for i in range(k)]


def pooled(maps: list[Grid], counts: list[list[float]], k: tuple[int, int]) -> tuple:
    """Return maps of one image, pooled to k cells over what counts, and how much each counts."""
    height, width = len(counts), len(counts[0])
    made: list[Grid] = [[] for _ in maps]
    mass: list[list[float]] = []
    for rows in cells(height, k[0]):
        mass.append([])
        for one in made:
            one.append([])
        for columns in cells(width, k[1]):
            places = [(i, j) for i in rows for j in columns]
            total = sum(counts[i][j] for i, j in places)
            mass[-1].append(total / len(places))
            for one, new in zip(maps, made, strict=True):
                mean = [0.0] * len(one[0][0])
                for i, j in places:
                    for c, value in enumerate(one[i][j]):
                        if counts[i][j]:
                            mean[c] += counts[i][j] * value / total
                new[-1].append(mean)
    return made, mass


def distance(images: list[tuple[list[Grid], list[list[float]]]]) -> float:
    """Return the weighted mean over all images of the mean square over channels."""
    above = below = 0.0
    for (s, t), counts in images:
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                if count:
                    pairs = list(zip(s[i][j], t[i][j], strict=True))
                    above += count * sum((a - b) ** 2 for a, b in pairs) / len(pairs)
                    below += count
    return above / below if below else 0.0


def grids(x: Tensor) -> list[Grid]:
    x = x[..., None, None] if x.dim() == 2 else x
    return x.double().permute(0, 2, 3, 1).tolist()


def hierarchical_context(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    level_weights: Sequence[float] | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the weighted mean of the levels' values."""
    first = grids(student[0])
    height, width = len(first[0]), len(first[0][0])
    counts = []
    for n in range(len(first)):
        ones = [[1.0] * width for _ in range(height)]
        for i in range(height):
            for j in range(width):
                if weight is not None:
                    ones[i][j] = weight.reshape(len(first), height, width)[n, i, j].item()
                if mask is not None and not mask.reshape(len(first), height, width)[n, i, j]:
                    ones[i][j] = 0.0
        counts.append(ones)
    weights = level_weights or [1.0] * len(student)
    values = []
    for s, t in zip(map(grids, student), map(grids, teacher), strict=True):
        size = (len(s[0]), len(s[0][0]))
        images = []
        for n in range(len(s)):
            _, mass = pooled([], counts[n], size)
            images.append(([s[n], t[n]], mass))
        value, factor, total = distance(images), 1.0, 1.0
        for k in (4, 2, 1):
            if k < min(size):
                factor /= 2
                total += factor
                value += factor * distance([pooled(*one, (k, k)) for one in images])
        values.append(value / total)
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
