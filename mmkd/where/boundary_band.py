"""Where one class of the label map meets another."""

import torch
from torch import Tensor

from mmkd.losses.checks import shape_of
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.utils.checks import check_count, check_non_negative
from mmkd.where.base import Where


def boundary_band(labels: Tensor, valid: Tensor, radius: int) -> Tensor:
    """Return True where a window of side 2·radius + 1 holds two classes or more.

    Labels that do not count are no class, so that the border of an ignored region is no edge. A
    window ends at the border of the image. Radius 0 has no band.

    Args:
        labels: Label map (N, H, W).
        valid: Bool, where a label counts.
        radius: How far from an edge the band reaches, in pixels.

    Returns:
        Bool (N, H, W).

    >>> labels = torch.tensor([[[0, 0, 0, 7, 7, 255, 2]]])
    >>> boundary_band(labels, labels != 255, 1).int()
    tensor([[[0, 0, 1, 1, 0, 1, 0]]], dtype=torch.int32)
    """
    lowest = torch.iinfo(torch.int32).min
    labels = labels.to(torch.int32)
    highest = torch.stack([labels, -labels]).masked_fill(~valid, lowest)
    for axis in (3, 2):
        highest = _highest(highest, radius, axis, lowest)
    # Of a window without a label both are the lowest, whose negative does not exist.
    return highest[0] > -highest[1].clamp(min=lowest + 1)


def _highest(x: Tensor, radius: int, axis: int, lowest: int) -> Tensor:
    """Return the highest of each window of 2·radius + 1 along an axis, in log(radius) passes."""
    shape = list(x.shape)
    shape[axis] = radius
    border = x.new_full(shape, lowest)
    x = torch.cat([border, x, border], axis)
    reach = 1
    while reach < 2 * radius + 1:
        step = min(reach, 2 * radius + 1 - reach)
        length = x.shape[axis] - step
        x = torch.maximum(x.narrow(axis, 0, length), x.narrow(axis, step, length))
        reach += step
    return x


@MODELS.register_module()
class BoundaryBand(Where):
    r"""In the band around edges of the label map, or outside of it.

    Paper: the regions of Liu et al., BPKD, WACV 2024, arXiv 2306.08075; no training code of the
    authors is known. The band is found on the labels at their own size: a pixel is in it where the
    window of side 2·radius + 1 around it holds two classes, max ≠ min. At the size of the student's
    map the weight is the share of a cell's pixels that are in the band: band and outside add up
    to 1 everywhere, and no edge is lost between the pixels that nearest would take.

    Args:
        radius: How far from an edge the band reaches, in pixels of the labels; 3 is a window of 7.
        inside: Weight in the band; None: 1, and 0 where ``outside`` is True.
        outside: Weight outside of it; True: 1 there and 0 in the band.
        reads: Of no use to it.

    Raises:
        ValueError: A radius that is no whole number, a weight below 0, both weights 0; labels that
            are no maps.

    Examples:
        >>> from types import SimpleNamespace
        >>> labels = torch.tensor([[[0, 0, 0, 1]]])
        >>> batch = SimpleNamespace(labels=labels, valid=labels != 255)
        >>> student = torch.zeros(1, 2, 1, 4)
        >>> BoundaryBand(radius=1)(batch, student)
        tensor([[[0., 0., 1., 1.]]])
        >>> BoundaryBand(radius=1, outside=True)(batch, student)
        tensor([[[1., 1., 0., 0.]]])
        >>> BoundaryBand(radius=2)(batch, student[..., :2])  # shares of two pixels
        tensor([[[0.5000, 1.0000]]])
    """

    labels = True

    def __init__(
        self,
        radius: int = 3,
        inside: float | None = None,
        outside: float | bool = 0.0,
        reads: dict[str, str] | None = None,
    ) -> None:
        super().__init__(reads)
        check_count('radius of BoundaryBand', radius, 0)
        self.radius = radius
        self.inside, self.outside = inside_outside('BoundaryBand', inside, outside)
        self.skips_unlabelled = not self.outside  # no edge is known there

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        """Return the weights (N, H, W) at the size of the labels."""
        labels = batch.labels
        if labels.dim() != 3:
            raise ValueError(
                f'BoundaryBand needs label maps (N, H, W), got labels {shape_of(labels)}. Mend: '
                'leave it out where a label is of a whole image'
            )
        band = boundary_band(labels, batch.valid, self.radius)
        return torch.where(band, self.inside, self.outside).to(torch.float32)


def inside_outside(name: str, inside: float | None, outside: float | bool) -> tuple[float, float]:
    """Return the weights within a region and outside; ``outside=True`` is the outside alone.

    >>> inside_outside('Boxes', None, True), inside_outside('Boxes', None, 0.)
    ((0.0, 1.0), (1.0, 0.0))

    Raises:
        ValueError: A weight below 0, or nothing would count.
    """
    if inside is None:
        inside = 0.0 if outside is True else 1.0
    outside = float(outside) if isinstance(outside, bool) else outside
    check_non_negative(f'inside of {name}', inside)
    check_non_negative(f'outside of {name}', outside)
    if not inside and not outside:
        raise ValueError(
            f'{name}: inside=0 and outside=0 leave nothing that counts. Mend: inside=1, or '
            'outside=True'
        )
    return float(inside), float(outside)
