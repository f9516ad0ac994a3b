"""Maps with each side's context added, one number at a time."""

import math

from references.focal_feature import softmax
from torch import Tensor, nn


def linear(layer: nn.Linear, x: list[float]) -> list[float]:
    rows, biases = layer.weight.tolist(), layer.bias.tolist()
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(rows, biases, strict=True)
    ]


def added(block: nn.Module, x: list[list[float]], places: list[int]) -> list[float]:
    """Return W₂ ReLU(LN(W₁ Σ a F)), of an image's channels and valid places."""
    each = [[channel[i] for channel in x] for i in places]
    shares = softmax([linear(block.attention, own)[0] for own in each])
    context = [
        sum(share * own[j] for share, own in zip(shares, each, strict=True)) for j in range(len(x))
    ]
    first, norm, _, last = block.transform
    z = linear(first, context)
    middle = sum(z) / len(z)
    spread = math.sqrt(sum((v - middle) ** 2 for v in z) / len(z) + norm.eps)
    scaled = [
        (v - middle) / spread * w + b
        for v, w, b in zip(z, norm.weight.tolist(), norm.bias.tolist(), strict=True)
    ]
    return linear(last, [max(v, 0.0) for v in scaled])


def global_context(
    student: Tensor,
    teacher: Tensor,
    ours: nn.Module,
    theirs: nn.Module,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return Σ w (F_s + g_s − F_t − g_t)² / (C Σ w)."""
    n, c = student.shape[:2]
    s, t = (x.reshape(n, c, -1).tolist() for x in (student, teacher))
    flat = None if mask is None else mask.reshape(n, -1).tolist()
    above = below = 0.0
    for k in range(n):
        places = [i for i in range(len(s[0][0])) if flat is None or flat[k][i]]
        if not places:
            continue
        own, other = added(ours, s[k], places), added(theirs, t[k], places)
        for i in places:
            w = 1.0 if weight is None else weight.reshape(n, -1)[k, i].item()
            squares = [(s[k][j][i] + own[j] - t[k][j][i] - other[j]) ** 2 for j in range(c)]
            above += w * sum(squares) / c
            below += w
    return above / below if below else 0.0
