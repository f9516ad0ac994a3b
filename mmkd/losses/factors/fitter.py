"""What a paraphraser is fitted to: pieces of a teacher's map, from places at random."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.factors.paraphraser import Paraphraser
from mmkd.losses.fitted.contract import Fitter
from mmkd.losses.fitted.source import Source
from mmkd.losses.fitted.spread import MAX_VECTORS, spread
from mmkd.structures.batch import Batch, read_batch

PATCH = 16  # places on a side of a piece


class ParaphraserFitter(Fitter):
    """Gather pieces of maps, spread evenly over the images; then fit the paraphraser.

    Args:
        source: Of the paraphraser.
        images: How many there are.
        generator: Of the places; its first seed is that of the fit.
        max_places: How many places of maps, at most.
    """

    def __init__(
        self,
        source: Source,
        images: int,
        generator: torch.Generator,
        max_places: int = MAX_VECTORS,
    ) -> None:
        self.source, self.images, self.generator = source, images, generator
        self.max_places = max_places
        self.part: Paraphraser = source.loss.part
        self._done = 0
        self._pieces: list[Tensor] = []

    def see(self, features: Tensor, batch: Batch) -> None:
        """Take pieces of each image."""
        valid = read_batch(batch, 'valid', features) if self.source.masked else None
        for index, image in enumerate(features.split(1)):
            height, width = _size(image)
            most = max(1, self.max_places // (height * width))
            quota = spread(most, self.images, self._done)
            self._done += 1
            mask = None if valid is None else valid[index : index + 1]
            self._pieces.append(pieces_of(image, mask, quota, self.generator))

    def finish(self) -> dict[str, float]:
        """Fit the paraphraser."""
        samples = join(self._pieces)
        self._pieces = []
        return self.part.fit(samples, self.generator.initial_seed())

    def tell(self, report: dict[str, float]) -> str:
        """Return how much the paraphraser loses."""
        return (
            f'paraphraser of {self.part.width} channels fitted to {report["samples"]} samples, '
            f'{report["vectors"]} places: {100 * report["error"]:.1f} % of the features are lost'
        )


def pieces_of(
    image: Tensor, mask: Tensor | None, number: int, generator: torch.Generator
) -> Tensor:
    """Return pieces (P, C + 1, h, w) of a map, on the CPU; the last channel says where it counts.

    There are no more than cover the map, and none where nothing counts.

    Args:
        image: Map (1, C, H, W) of one image.
        mask: Bool (1, H, W), True where a position counts.
        number: Of the pieces, at most.
        generator: Of the places that they are from.

    Examples:
        >>> pieces_of(torch.ones(1, 2, 40, 40), None, 3, torch.Generator().manual_seed(0)).shape
        torch.Size([3, 3, 16, 16])
    """
    size = _size(image)
    number = min(number, math.ceil(image[0, 0].numel() / (size[0] * size[1])))
    if mask is None:
        mask = image.new_ones((1, *image.shape[2:])).bool()
    whole = torch.cat([image.where(mask[:, None], 0.0), mask[:, None].to(image)], 1)
    pieces = [whole[:0, :, : size[0], : size[1]]]
    for _ in range(number):
        top, left = (
            int(torch.randint(image.shape[d + 2] - size[d] + 1, (), generator=generator))
            for d in range(2)
        )
        piece = whole[:, :, top : top + size[0], left : left + size[1]]
        pieces += [piece] if piece[:, -1].any() else []
    return torch.cat(pieces).float().cpu()


def join(pieces: list[Tensor]) -> Tensor:
    """Return all pieces, the smaller ones with places beside them that do not count.

    >>> join([torch.ones(2, 3, 4, 4), torch.ones(1, 3, 2, 4)])[2, 2, :, 0]
    tensor([1., 1., 0., 0.])
    """
    height, width = max(x.shape[2] for x in pieces), max(x.shape[3] for x in pieces)
    return torch.cat([F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2])) for x in pieces])


def _size(image: Tensor) -> tuple[int, int]:
    """Return height and width of a piece of a map (1, C, H, W)."""
    return min(PATCH, image.shape[2]), min(PATCH, image.shape[3])
