"""Pair-wise affinity, node by node and edge by edge, as equations 2 and 3 of Structured KD have
it.
"""

import math
from itertools import product

from torch import Tensor


def nodes(f: Tensor, patch: tuple[int, int], pool: str) -> dict[tuple[int, int], list[float]]:
    """Return the vector of each node: the mean (or maximum) of the pixels that its patch holds."""
    channels, height, width = f.shape
    grid = {}
    for y, x in product(range(math.ceil(height / patch[0])), range(math.ceil(width / patch[1]))):
        pixels = (
            f[:, y * patch[0] : (y + 1) * patch[0], x * patch[1] : (x + 1) * patch[1]]
            .reshape(channels, -1)
            .tolist()
        )
        grid[y, x] = [max(p) if pool == 'max' else sum(p) / len(p) for p in pixels]
    return grid


def cosine(a: list[float], b: list[float]) -> float:
    size = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / size if size else 0.0


def pair_wise_affinity(
    student: Tensor,
    teacher: Tensor,
    patch: tuple[int, int] = (1, 1),
    pool: str = 'avg',
    neighbourhood: int | None = None,
) -> float:
    """Return the mean over existing edges of all images of (a^s_ij − a^t_ij)²."""
    total, edges = 0.0, 0
    for s, t in zip(student, teacher, strict=True):
        s_nodes, t_nodes = nodes(s, patch, pool), nodes(t, patch, pool)
        for i, j in product(s_nodes, s_nodes):
            if (
                neighbourhood is None
                or max(abs(i[0] - j[0]), abs(i[1] - j[1])) <= neighbourhood // 2
            ):
                total += (cosine(s_nodes[i], s_nodes[j]) - cosine(t_nodes[i], t_nodes[j])) ** 2
                edges += 1
    return total / edges
