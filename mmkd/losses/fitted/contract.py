"""What a loss declares that has a part to be fitted before training."""

from typing import Any

import torch

from mmkd.losses.base import Loss, Place
from mmkd.losses.fitted.part import FittedPart
from mmkd.losses.fitted.source import Source
from mmkd.structures.batch import Batch


class Fitter:
    """How one part is fitted: it sees training images batch by batch, on one rank.

    Attributes:
        passes: How often it sees all images, at most.
        watches: Whether it is given what the teacher's tap saw; else the batch alone, for forwards
            of its own.
    """

    passes: int = 1
    watches: bool = True

    def see(self, features: Any, batch: Batch) -> None:
        """Take one batch in.

        It runs under ``torch.no_grad()``; steps of gradients need ``torch.enable_grad()``.

        Args:
            features: What the teacher's tap saw of the batch; None where it does not watch.
            batch: Training images under the validation pipeline.
        """
        raise NotImplementedError

    def finish(self) -> dict[str, float]:
        """Write the part, and return what is to be told of it.

        Raises:
            ValueError: What was seen cannot be fitted to.
        """
        raise NotImplementedError

    def tell(self, report: dict[str, float]) -> str:
        """Return what the log says of a report."""
        return ', '.join(f'{name} {value:.4g}' for name, value in report.items())


class FittedLoss(Loss):
    """A loss with a part that is fitted to a tap of a frozen teacher before training.

    :class:`mmkd.FitHook` fits the part, or checks whose it is where a checkpoint brought it.

    Attributes:
        fits: What is fitted, in the plural, as errors call it.
        resized: Whether the part serves a map that a connector of the teacher has resized.
    """

    fits: str = 'parts'
    resized: bool = False

    @property
    def part(self) -> FittedPart | None:
        """What is fitted; None while shapes are not known."""
        raise NotImplementedError

    def shapes(self) -> str:
        """Return what of the teacher's map the part depends on, besides its tap."""
        raise NotImplementedError

    def fitter(
        self, source: Source, images: int, batches: int, generator: torch.Generator
    ) -> Fitter:
        """Return what fits the part.

        Args:
            source: Of the part.
            images: How many images a pass has.
            batches: How many batches it has.
            generator: Of random numbers, on the CPU; no others may be drawn.
        """
        raise NotImplementedError

    def bind(self, place: Place) -> None:
        """Refuse a teacher that is none, and a part that was fitted to another source.

        Raises:
            ValueError: What is read is no tap of a frozen teacher itself; a part of another one.
        """
        source = Source.of(self, place)
        if self.part is not None and self.part.fitted:
            source.check()

    @torch.no_grad()
    def stand_in(self, generator: torch.Generator) -> str:
        """Draw the part at random, where it is not fitted yet."""
        if self.part is None or self.part.fitted:
            return ''
        self.part.draw(generator)
        return f'random {self.fits} here: training fits them first'
