"""What dense heads say of boxes, as boxes whose unit is no matter."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd.losses.functional import infinite_to_nan

CODES = ('exp', 'relu', 'bins', 'deltas')
SPREAD = (1.0, 1.0, 1.0, 1.0)
LARGEST = math.log(1000 / 16)  # of a side in anchors, as mmdet's coder


def decode(x: Tensor, code: str, spread: Sequence[float] = SPREAD) -> Tensor:
    r"""Return the boxes of a map around the place that each belongs to.

    Of distances the unit is the stride of the map, of deltas it is the anchor: what two boxes of
    one place share relatively is the same in every unit, so that neither anchors, strides nor
    points are needed.

    ============  ======================================================
    ``code``      numbers of a box
    ============  ======================================================
    ``'exp'``     logarithms of the distances of its edges (FCOS)
    ``'relu'``    the distances, 0 where they are below (FCOS with ``norm_on_bbox``)
    ``'bins'``    n + 1 logits an edge: the distance is their mean bin (GFL)
    ``'deltas'``  shift of the centre in anchors, logarithms of the sides (RetinaNet, ATSS)
    ============  ======================================================

    Args:
        x: Map (N, 4, \*S), of bins (N, 4·(n + 1), \*S).
        code: See the table.
        spread: What the numbers of deltas are multiplied by, ``target_stds`` of mmdet's coder.

    Returns:
        Left, top, right, bottom (4, N, \*S).

    Examples:
        >>> decode(torch.tensor([[0., 0., 0., 0.]]), 'exp').T
        tensor([[-1., -1.,  1.,  1.]])
        >>> decode(torch.tensor([[1., 0., 0., 0.]]), 'deltas').T
        tensor([[ 0.5000, -0.5000,  1.5000,  0.5000]])
        >>> decode(torch.zeros(1, 12), 'bins').T  # the mean of bins 0, 1 and 2
        tensor([[-1., -1.,  1.,  1.]])
    """
    x = infinite_to_nan(x)
    if code == 'deltas':
        # numbers of Python: a tensor made of them would be copied to the device at each step
        numbers = [one * factor for one, factor in zip(x.unbind(1), spread, strict=True)]
        shift, size = torch.stack(numbers).split(2)
        half = size.clamp(-LARGEST, LARGEST).exp() / 2
        return torch.cat([shift - half, shift + half])
    if code == 'bins':
        bins = x.unflatten(1, (4, -1)).softmax(2)
        steps = torch.arange(bins.shape[2], dtype=x.dtype, device=x.device)
        distances = torch.einsum('neb...,b->ne...', bins, steps)
    else:
        distances = x.exp() if code == 'exp' else x.clamp(min=0)
    start, end = distances.movedim(1, 0).split(2)
    return torch.cat([-start, end])
