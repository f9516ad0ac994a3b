"""Attention transfer image by image and position by position, as its equation prints it."""

import math

from torch import Tensor


def attention(image: list[list[float]], places: list[int], power: float) -> list[float]:
    """Return Q at the places that count, of an image [channel][position]."""
    energy = [sum(abs(channel[i]) ** power for channel in image) for i in places]
    length = math.hypot(*energy)
    return [e / length if length else 0.0 for e in energy]


def attention_transfer(
    student: Tensor,
    teacher: Tensor,
    power: float = 2.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the weighted mean over valid positions of P_n (Q_s − Q_t)²."""
    n = len(student)
    s, t = (x.reshape(n, x.shape[1], -1).tolist() for x in (student, teacher))
    above = total = 0.0
    for k in range(n):
        places = [
            i for i in range(len(s[k][0])) if mask is None or mask.reshape(n, -1)[k, i].item()
        ]
        ours, theirs = (attention(image, places, power) for image in (s[k], t[k]))
        for i, a, b in zip(places, ours, theirs, strict=True):
            w = 1.0 if weight is None else weight.reshape(n, -1)[k, i].item()
            above += w * len(places) * (a - b) ** 2
            total += w
    return above / total if total else 0.0
