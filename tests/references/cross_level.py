"""Cross-level matching, one number at a time: similarities, attention, squares."""

import math
from collections.abc import Sequence

from torch import Tensor

Layers = Sequence[Tensor]  # weight, bias, weight, bias


def embedded(row: list[float], layers: Layers) -> list[float]:
    """Return two linear layers of a row, with a ReLU between, over their norm."""
    w1, b1, w2, b2 = (x.tolist() for x in layers)
    hidden = [
        max(0.0, b + sum(w * x for w, x in zip(own, row, strict=True)))
        for own, b in zip(w1, b1, strict=True)
    ]
    out = [
        b + sum(w * x for w, x in zip(own, hidden, strict=True))
        for own, b in zip(w2, b2, strict=True)
    ]
    norm = math.sqrt(sum(x * x for x in out))
    return [x / norm for x in out]


def similarities(x: Tensor, images: int) -> list[list[float]]:
    flat = x.flatten(1).tolist()
    rows = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in flat] for one in flat]
    return [row + [0.0] * (images - len(flat)) for row in rows]


def attention(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    queries: Sequence[Layers],
    keys: Sequence[Layers],
    images: int,
    softness: float,
) -> list[list[list[float]]]:
    """Return α by image, level of the student, level of the teacher."""
    s_rows = [similarities(x, images) for x in student]
    t_rows = [similarities(x, images) for x in teacher]
    found = []
    for n in range(len(student[0])):
        q = [embedded(rows[n], net) for rows, net in zip(s_rows, queries, strict=True)]
        k = [embedded(rows[n], net) for rows, net in zip(t_rows, keys, strict=True)]
        image = []
        for own in q:
            scores = [
                math.exp(sum(a * b for a, b in zip(own, key, strict=True)) / softness) for key in k
            ]
            image.append([score / sum(scores) for score in scores])
        found.append(image)
    return found


def pooled(x: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Return the mean of each of height × width cells of a map of one channel."""
    rows, columns = len(x), len(x[0])
    out = []
    for i in range(height):
        out.append([0.0] * width)
        for j in range(width):
            cell = [
                x[a][b]
                for a in range(i * rows // height, math.ceil((i + 1) * rows / height))
                for b in range(j * columns // width, math.ceil((j + 1) * columns / width))
            ]
            out[-1][j] = sum(cell) / len(cell)
    return out


def cross_level(
    student: Sequence[Tensor], teacher: Sequence[Tensor], weights: list[list[list[float]]]
) -> float:
    """Return the mean over images and the student's levels of the attended mean squares."""
    total, levels = 0.0, len(weights[0])
    for n, image in enumerate(weights):
        for i, row in enumerate(image):
            for j, weight in enumerate(row):
                s = student[i * len(teacher) + j][n].tolist()
                square = count = 0.0
                for c, channel in enumerate(s):
                    t = pooled(teacher[j][n, c].tolist(), len(channel), len(channel[0]))
                    for own, other in zip(channel, t, strict=True):
                        for a, b in zip(own, other, strict=True):
                            square += (a - b) ** 2
                            count += 1
                total += weight * square / count
    return total / len(weights) / levels
