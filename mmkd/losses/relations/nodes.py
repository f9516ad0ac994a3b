"""Nodes: places of a map that are averaged to fewer."""

from collections.abc import Callable
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Size, Tensor

from mmkd.losses.functional import fill_masked, measure

_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def window_for(sizes: tuple[int, ...], nodes: int | None) -> int:
    """Return the side of the smallest windows that leave at most so many nodes.

    >>> window_for((64, 128), 1024), window_for((64, 64), 1024), window_for((8, 8), None)
    (3, 2, 1)
    """
    side = 1
    while nodes is not None and prod(ceil(n / side) for n in sizes) > nodes:
        side += 1
    return side


def average_nodes(
    side: int, student: Tensor, teacher: Tensor, mask: Tensor | None, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    r"""Average maps (N, C, \*S), their mask and weight over windows, those at the border smaller.

    A node is the mean over what the mask leaves of its window, and counts where that is anything;
    its weight is the mean weight there.

    Args:
        side: Of a window; 1 changes nothing but the weight where the mask is False, to 0.
        student: Map (N, Cs, \*S), 0 where it does not count.
        teacher: The same of the teacher.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts.

    >>> x, mask = torch.tensor([[[1., 3., 0.]]]), torch.tensor([[True, True, False]])
    >>> average_nodes(2, x, x, mask, None)[0::2]
    (tensor([[[2., 0.]]]), tensor([[ True, False]]))
    """
    own = None if weight is None else measure(weight, mask, student.dtype)
    if side == 1:
        return student, teacher, mask, own
    share = None if mask is None else _pooled(mask.unsqueeze(1).to(student.dtype), side)
    student, teacher = (_mean(x, side, share) for x in (student, teacher))
    if own is not None:
        own = _mean(own.unsqueeze(1), side, share).squeeze(1)
    return student, teacher, None if share is None else share.squeeze(1) > 0, own


def _mean(x: Tensor, side: int, share: Tensor | None) -> Tensor:
    pooled = _pooled(x, side)
    return pooled if share is None else pooled / share.where(share > 0, share.new_ones(()))


def _pooled(x: Tensor, side: int) -> Tensor:
    pool = _POOL[x.dim() - 2]
    return pool(x, side, side, ceil_mode=True, count_include_pad=False)


def averaged_to(x: Tensor, own: Tensor | None, size: Size) -> Tensor:
    r"""Return a map averaged to another size, over what counts; 0 where nothing does.

    Args:
        x: Map (N, C, \*S).
        own: How much places count (N, 1, \*S) of any size; None: all alike.
        size: Of what is returned.

    >>> x, own = torch.tensor([[[1., 3., torch.nan, 5.]]]), torch.tensor([[[1., 1., 0., 2.]]])
    >>> averaged_to(x, own, torch.Size([2]))
    tensor([[[2., 5.]]])
    """
    if own is None:
        return resized(x, size)
    own = resized(own, x.shape[2:])
    x = fill_masked(x, own.squeeze(1) > 0)
    if x.shape[2:] == size:
        return x
    total = resized(own, size)
    return resized(x * own, size) / total.where(total > 0, total.new_ones(()))


def resized(x: Tensor, size: Size) -> Tensor:
    r"""Return a map (N, C, \*S) whose places are the means of what they cover.

    >>> resized(torch.tensor([[[1., 3.]]]), torch.Size([1]))
    tensor([[[2.]]])
    """
    return x if x.shape[2:] == size else _ADAPTIVE[len(size)](x, tuple(size))


def windows_of(x: Tensor, side: int, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Cut maps (N, C, H, W) into windows (N · windows, C, side, side); what is beyond is 0.

    Args:
        x: The maps.
        side: Of a window.
        shift: How far the grid of windows begins above and left of the map, below ``side`` each.

    >>> windows_of(torch.arange(4.).view(1, 1, 2, 2), 2, (0, 1)).flatten(2).tolist()
    [[[0.0, 0.0, 0.0, 2.0]], [[1.0, 0.0, 3.0, 0.0]]]
    """
    images, channels, height, width = x.shape
    (up, left), (down, right) = shift, ((-(height + shift[0])) % side, (-(width + shift[1])) % side)
    x = F.pad(x, (left, right, up, down))
    x = x.view(images, channels, x.shape[2] // side, side, x.shape[3] // side, side)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, side, side)


def inside_windows(mask: Tensor | None, like: Tensor, side: int, shift: tuple[int, int]) -> Tensor:
    """Return where windows hold places of the map that count, bool (N · windows, side, side).

    >>> inside_windows(None, torch.zeros(1, 3, 1, 2), 2, (0, 1)).flatten(1).tolist()
    [[False, True, False, False], [True, False, False, False]]
    """
    if mask is None:
        mask = torch.ones_like(like[:, 0], dtype=torch.bool)
    return windows_of(mask.unsqueeze(1).to(like.dtype), side, shift).squeeze(1) > 0
