"""Factor transfer, one number at a time: the nets as loops, then the factors' difference."""

from collections.abc import Sequence

import torch
from references.feature_matching import feature_matching
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, bias: Tensor, slope: float = 0.1) -> Tensor:
    """Return a 3×3 convolution with zeros around the map (C, H, W), and a leaky ReLU.

    A slope of 0 is a ReLU, of 1 nothing.
    """
    channels, height, width = x.shape
    values, w, b = x.tolist(), weight.tolist(), bias.tolist()
    out = [[[0.0] * width for _ in range(height)] for _ in b]
    for o, start in enumerate(b):
        for i in range(height):
            for j in range(width):
                total = start
                for c in range(channels):
                    for di in range(max(0, 1 - i), min(3, height + 1 - i)):
                        for dj in range(max(0, 1 - j), min(3, width + 1 - j)):
                            total += w[o][c][di][dj] * values[c][i + di - 1][j + dj - 1]
                out[o][i][j] = total if total > 0 else slope * total
    return torch.tensor(out, dtype=torch.float64)


def factor(x: Tensor, parameters: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """Return the factor (N, k C, H, W) of a map, 0 where it is masked."""
    found = []
    for n, image in enumerate(x.double()):
        if mask is not None:
            image = torch.where(mask[n], image, 0.0)
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            image = convolve(image, weight, bias)
        found.append(image)
    return torch.stack(found)


def factor_transfer(
    student: Tensor,
    teacher: Tensor,
    translator: Sequence[Tensor],
    paraphraser: Sequence[Tensor],
    mask: Tensor | None = None,
) -> float:
    """Return the mean absolute difference of factors over their images' root mean square."""
    ours, theirs = factor(student, translator, mask), factor(teacher, paraphraser, mask)
    return feature_matching(ours, theirs, 'image', 'l1', mask)
