"""Resizing of maps, so that every place has its share."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resize_map(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return a map (N, C, H, W) of another size: bilinear, or the means of what is covered.

    Bilinear reads no more than four places for each that it makes, so that a map that shrinks by
    more than 2 would lose most of its places, and those would get no gradient; there each new place
    is the mean of what it covers. At 2 both are the same.

    Args:
        x: The map.
        size: Height and width.

    >>> import torch
    >>> x = torch.tensor([[[[3., 0., 0., 9.]]]])
    >>> resize_map(x, (1, 2)), resize_map(x, (1, 1))
    (tensor([[[[1.5000, 4.5000]]]]), tensor([[[[3.]]]]))
    >>> resize_map(x[..., ::3], (1, 4))
    tensor([[[[3.0000, 4.5000, 7.5000, 9.0000]]]])
    """
    if shrinks(x.shape[2:], size):
        return F.interpolate(x, size=tuple(size), mode='area')
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=False)


def shrinks(size: Sequence[int], to: Sequence[int]) -> bool:
    """Return whether a side becomes smaller by more than 2.

    >>> shrinks((8, 8), (4, 8)), shrinks((9, 8), (4, 16))
    (False, True)
    """
    return any(old > 2 * new for old, new in zip(size, to, strict=True))
