"""Where objects are: boxes of detectors."""

import torch
from torch import Tensor

from mmkd.losses.checks import shape_of
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.where.base import Where
from mmkd.where.boundary_band import inside_outside


def share_of_boxes(boxes: Tensor, size: tuple[int, int], stride: tuple[float, float]) -> Tensor:
    """Return one over the cells of the box that a cell lies in, 0 outside of all.

    A box holds the cells that it touches: from the one of its left and top to the one before its
    right and bottom, at least one. Where boxes overlap the largest counts: the smallest box's.

    Args:
        boxes: Left, top, right, bottom (M, 4) in pixels of the input.
        size: Height and width of the map.
        stride: Pixels of a cell, down and across.

    Returns:
        Float32 (H, W).

    >>> share_of_boxes(torch.tensor([[0., 0., 16., 8.], [4., 4., 7., 7.]]), (2, 3), (8., 8.))
    tensor([[1.0000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    left, top, right, bottom = boxes.float().unbind(1)
    rows, down = _touched(top, bottom, size[0], stride[0])
    columns, across = _touched(left, right, size[1], stride[1])
    share = 1 / (down * across).clamp(min=1)
    each = (rows.unsqueeze(2) & columns.unsqueeze(1)) * share.view(-1, 1, 1)
    return torch.cat([each.new_zeros(1, *size), each]).amax(0)


def _touched(start: Tensor, end: Tensor, cells: int, stride: float) -> tuple[Tensor, Tensor]:
    """Return which cells of an axis each box touches (M, cells), and how many."""
    first, last = (start / stride).floor(), (end / stride).ceil()
    cell = torch.arange(cells, device=start.device)
    inside = (cell >= first.unsqueeze(1)) & (cell < last.unsqueeze(1)) & (end > start).unsqueeze(1)
    return inside, inside.sum(1)


@MODELS.register_module()
class Boxes(Where):
    r"""One over the cells of a box within it, and one over the cells outside of all boxes.

    Paper: the scale mask of Yang et al., Focal and Global Knowledge Distillation (FGD), CVPR 2022,
    arXiv 2111.11837, eq. 4 and 5.

    .. math:: w_i = \max_{b \ni i} \frac{1}{H_b W_b} \text{ in a box, else } \frac{1}{N_{bg}}

    so that each box counts as much as another, and the background of an image as much as a box. A
    box holds the cells that it touches, at the stride of the map: a small one still has a cell of
    the coarsest level. The authors' code takes one row and one column more at the right and the
    bottom (it rounds up, and then includes the end). Only the part of a box within the image
    counts, and where boxes overlap the largest weight, as there.

    Args:
        inside: Factor of the weight within boxes; None: 1, and 0 where ``outside`` is True.
        outside: Factor of the weight outside; True: that alone.
        reads: Of no use to it.

    Raises:
        ValueError: A factor below 0, or both 0; no map, no boxes.

    Examples:
        >>> from types import SimpleNamespace
        >>> boxes = [torch.tensor([[0., 0., 8., 4.]])]
        >>> batch = SimpleNamespace(inputs=torch.zeros(1, 3, 8, 16), boxes=boxes)
        >>> Boxes(outside=1.)(batch, torch.zeros(1, 256, 2, 4))  # 2 cells, and 6 outside
        tensor([[[0.5000, 0.5000, 0.1667, 0.1667],
                 [0.1667, 0.1667, 0.1667, 0.1667]]])
    """

    boxes = True

    def __init__(
        self,
        inside: float | None = None,
        outside: float | bool = 0.0,
        reads: dict[str, str] | None = None,
    ) -> None:
        super().__init__(reads)
        self.inside, self.outside = inside_outside('Boxes', inside, outside)
        self.skips_unlabelled = not self.outside  # there is no box

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        """Return the weights (N, H, W) at the size of the student's map."""
        if student.dim() != 4:
            raise ValueError(
                f'Boxes weighs maps (N, C, H, W), got student {shape_of(student)}. Mend: a tap of '
                'the neck'
            )
        size = (student.shape[2], student.shape[3])
        height, width = batch.inputs.shape[2:]
        stride = (height / size[0], width / size[1])
        each = [share_of_boxes(own.to(student.device), size, stride) for own in batch.boxes]
        inside = torch.stack(each)
        background = inside == 0
        count = background.sum((1, 2), keepdim=True).clamp(min=1)
        return self.inside * inside + self.outside * background / count
