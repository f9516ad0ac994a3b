"""How far boxes lie apart, by what they share."""

import torch
from torch import Tensor

PENALTIES = ('giou', 'log-iou')
LEAST = 1e-6  # of an IoU below a logarithm


def overlap_penalty(student: Tensor, teacher: Tensor, penalty: str = 'giou') -> Tensor:
    r"""Return what two boxes lack of being one, for each pair of boxes.

    Paper: Rezatofighi et al., Generalized Intersection over Union, CVPR 2019, arXiv 1902.09630.
    With I the area that two boxes share, U the area of both, and H that of the smallest box around
    them:

    .. math:: 1 - \frac{I}{U} + \frac{H - U}{H} \text{ ('giou')}, \qquad
              -\ln \frac{I}{U} \text{ ('log-iou')}

    Both are 0 of equal boxes, with gradient 0, and do not change where an axis of both is shifted
    or scaled, however small they are. Of two boxes without an area I / U is 0, and (H − U) / H
    where H is 0. An IoU below a logarithm is at least 1e-6.

    Args:
        student: Left, top, right, bottom (4, \*S).
        teacher: The same.
        penalty: 'giou', up to 2, or 'log-iou', whose gradient is 0 of boxes that are apart.

    Returns:
        Tensor (\*S).

    Examples:
        >>> student, teacher = torch.tensor([0., 0., 2., 2.]), torch.tensor([1., 0., 3., 2.])
        >>> overlap_penalty(student, teacher)  # 1 − 2 / 6 + 0
        tensor(0.6667)
        >>> overlap_penalty(student, teacher, 'log-iou')  # ln 3
        tensor(1.0986)
    """
    shared = area(torch.maximum(student[:2], teacher[:2]), torch.minimum(student[2:], teacher[2:]))
    both = area(student[:2], student[2:]) + area(teacher[:2], teacher[2:]) - shared
    iou = _part(shared, both)
    if penalty == 'log-iou':
        return -iou.clamp(min=LEAST).log()
    around = area(torch.minimum(student[:2], teacher[:2]), torch.maximum(student[2:], teacher[2:]))
    return 1 - iou + _part(around - both, around)


def area(start: Tensor, end: Tensor) -> Tensor:
    r"""Return the areas of boxes from their corners (2, \*S), 0 where one ends before it begins.

    >>> area(torch.tensor([0., 1.]), torch.tensor([3., 3.]))
    tensor(6.)
    """
    width, height = (end - start).clamp(min=0)  # the backward of prod waits for the device
    return width * height


def _part(area: Tensor, whole: Tensor) -> Tensor:
    """Return what part of an area another is, 0 of none; NaN stays."""
    none = whole <= torch.finfo(whole.dtype).tiny
    return area.where(~none, area.new_zeros(())) / whole.where(~none, whole.new_ones(()))
