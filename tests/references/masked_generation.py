"""Masked generation, one number at a time: what is left out, the nets as loops, the squares."""

from collections.abc import Sequence

import torch
from references.factor_transfer import convolve
from torch import Tensor


def generated(x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return two 3×3 convolutions with a ReLU between of a map (C, H, W)."""
    first, last = parameters[:2], parameters[2:]
    return convolve(convolve(x, *first, slope=0.0), *last, slope=1.0)


def masked_generation(
    student: Tensor,
    teacher: Tensor,
    parameters: Sequence[Tensor],
    kept: Tensor,
    token: Tensor | None = None,
    over: str = 'all',
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the weighted mean of squares over the places that count, and over channels."""
    n, c, h, w = student.shape
    above = below = 0.0
    for k in range(n):
        seen = torch.zeros(c, h, w, dtype=torch.float64)
        for i in range(h):
            for j in range(w):
                for d in range(c):
                    whole = kept.expand_as(student)[k, d, i, j]
                    value = student[k, d, i, j] if whole else 0.0 if token is None else token[d]
                    seen[d, i, j] = value if mask is None or mask[k, i, j] else 0.0
        made = generated(seen, parameters)
        for i in range(h):
            for j in range(w):
                left_out = not kept.expand_as(student)[k, 0, i, j]
                valid = mask is None or bool(mask[k, i, j])
                if not valid or (over == 'masked' and not left_out):
                    continue
                share = 1.0 if weight is None else weight[k, i, j].item()
                squares = [(made[d, i, j] - teacher[k, d, i, j]).item() ** 2 for d in range(c)]
                above += share * sum(squares) / c
                below += share
    return above / below if below else 0.0
