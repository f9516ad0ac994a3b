"""Messy Collaboration: wrong labels for the students, by chance."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from mmkd.noise.base import Host, Noise
from mmkd.registry import MODELS
from mmkd.structures.batch import IGNORED_IMAGE, Batch
from mmkd.tasks.base import task_of
from mmkd.utils.checks import check_choice, check_count, check_fraction
from mmkd.utils.seeds import image_name, name_seed


@MODELS.register_module()
class LabelFlip(Noise):
    r"""Replace labels, each with probability ``rate``, by any of the C − 1 other classes.

    Paper: Arani, Sarfraz, Zonooz, Noise as a Resource for Learning in Knowledge Distillation, WACV
    2021, arXiv 1910.05057, Messy Collaboration:

    .. math:: \mathcal L = (1-\alpha)\,CE(S(x), \tilde y)
              + \alpha\tau^2 KL(T^\tau(x) \Vert S^\tau(x)),
              \quad \tilde y = y' \ne y \text{ with probability } p, \text{ else } y

    In a Distiller the students' own losses (and the accuracy that they log) see the wrong labels.
    Validation, and what objectives read as ``batch.labels``, stay clean; ignored positions stay
    ignored.

    Fixed and fresh noise are different methods: fixed is a data set with wrong labels, fresh
    averages them out. Fixed noise is a function of ``seed`` and the image's name (the last three
    parts of its path, so that it does not depend on where the data lie), whatever the epoch,
    worker, rank or resume. In a label map it belongs to a class of the image (``per='image'``), to
    a pixel, or to a region counted from the top left. Crops and flips move pixels and regions:
    where they are used, per='image' alone gives an object the same wrong label in every epoch.

    Args:
        rate: p, from 0 to below 1.
        num_classes: C; None takes the student's.
        per: What flips together in a label map: 'pixel' (each alone), 'region' (4-connected pixels
            of one class) or 'image' (all pixels of one class in an image). The label of a whole
            image is one unit anyway.
        fresh: False: an image has the same wrong labels always; True: new ones in every step.
        seed: Of fixed noise. The run's seed does not change it: runs of several seeds share one
            noisy data set.
        members: Students that see it; None: all.

    Raises:
        ValueError: A rate outside [0, 1), an unknown ``per``, C that is not the student's, an image
            without a name.

    >>> flip = LabelFlip(rate=0.5, num_classes=3)
    >>> flip(torch.tensor([0, 1, 2, 0]), names=['a.png', 'b.png', 'c.png', 'd.png'])
    tensor([1, 1, 2, 0])
    """

    on_labels = True

    def __init__(
        self,
        rate: float,
        num_classes: int | None = None,
        per: str = 'pixel',
        fresh: bool = False,
        seed: int = 0,
        members: Sequence[str] | None = None,
    ) -> None:
        super().__init__(members)
        check_fraction('rate of LabelFlip', rate)
        check_choice('per', per, ('pixel', 'region', 'image'))
        check_count('seed of LabelFlip', seed, 0)
        if num_classes is not None:
            check_count('num_classes of LabelFlip', num_classes, 2)
        self.rate, self.num_classes, self.per = rate, num_classes, per
        self.fresh, self.seed = fresh, seed

    def __call__(
        self, labels: Tensor, names: Sequence[str] | None = None, ignore_index: int | None = None
    ) -> Tensor:
        """Return labels with flips; ``labels`` stays as it is.

        Args:
            labels: (N,) or (N, H, W).
            names: Of the images, for fixed noise; None takes their positions in the batch.
            ignore_index: A label that is left alone, as is all outside 0 … C − 1; None: 255 in
                maps, −100 else.

        Raises:
            ValueError: C is not known, or names are too few.
            TypeError: Labels that are no whole numbers.
        """
        if self.num_classes is None:
            raise ValueError(
                'LabelFlip does not know how many classes there are. Mend: num_classes=…'
            )
        _check_labels(labels, names)
        if ignore_index is None:
            ignore_index = 255 if labels.dim() == 3 else IGNORED_IMAGE
        flat = labels.reshape(len(labels), -1).int()
        valid = (flat != ignore_index) & (flat >= 0) & (flat < self.num_classes)
        unit, count = self._units(labels, flat, self.num_classes)
        named = [str(i) for i in range(len(labels))] if names is None else names
        chance = self._draw(named, count, labels.device)
        if unit is not None:
            chance = chance.gather(1, unit)
        # One draw says both: below the rate it flips, and where below says to which of the other
        # classes.
        steps = 1 + (chance * ((self.num_classes - 1) / max(self.rate, 1e-12))).int().clamp(
            max=self.num_classes - 2
        )
        wrong = (flat + steps) % self.num_classes
        return (
            torch.where(valid & (chance < self.rate), wrong, flat)
            .to(labels.dtype)
            .view(labels.shape)
        )

    def bind(self, host: Host) -> None:
        """Take the number of classes, or check it."""
        own = task_of(host.model).num_classes
        if self.num_classes is None:
            self.num_classes = own
        if self.num_classes is None:
            raise ValueError(
                f'LabelFlip: {host.where} does not say how many classes it has. Mend: num_classes=…'
            )
        if own is not None and own != self.num_classes:
            raise ValueError(
                f'LabelFlip(num_classes={self.num_classes}), but {host.where} has {own} classes. '
                f'Mend: num_classes={own}, or leave it out'
            )

    def on_batch(self, batch: Batch) -> Batch:
        """Return the batch with other data samples, whose labels are flipped."""
        clean, samples = batch.labels, batch.data_samples or []
        user, mend = 'LabelFlip(fresh=False)', ', or fresh=True'
        names = None if self.fresh else [image_name(s.metainfo, user, mend) for s in samples]
        labels = self(clean, names, batch.ignored)
        changed = (labels != clean).view(len(labels), -1).any(1).tolist()
        flipped = [
            batch.task.relabel(sample, own) if differs else sample
            for sample, own, differs in zip(samples, labels, changed, strict=True)
        ]
        return replace(batch, data_samples=flipped)

    def _units(self, labels: Tensor, flat: Tensor, classes: int) -> tuple[Tensor | None, int]:
        """Return the unit of each position (None: one each), and how many units an image has."""
        if labels.dim() == 1 or self.per == 'pixel':
            return None, flat.shape[1]
        if self.per == 'image':
            return flat.clamp(0, classes - 1), classes  # what is clamped is not valid
        unit = np.stack([label_regions(map_) for map_ in labels.cpu().numpy()])
        return torch.from_numpy(unit).to(labels.device).long().flatten(1), int(unit.max()) + 1

    def _draw(self, names: Sequence[str], count: int, device: torch.device) -> Tensor:
        if self.fresh:
            return torch.rand(len(names), count, device=device)
        seeds = [name_seed(self.seed, name) for name in names]
        own = [torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(own).to(device)


def _check_labels(labels: Tensor, names: Sequence[str] | None) -> None:
    if labels.dim() not in (1, 3):
        raise ValueError(f'LabelFlip needs labels (N,) or (N, H, W), got {tuple(labels.shape)}')
    if labels.is_floating_point():
        raise TypeError(
            f'LabelFlip needs whole numbers as labels, got {labels.dtype}. Mend: labels.long()'
        )
    if names is not None and len(names) != len(labels):
        raise ValueError(
            f'LabelFlip needs a name for each image, got {len(names)} for {len(labels)} labels'
        )


def label_regions(labels: np.ndarray) -> np.ndarray:
    """Return the number, from 0 on, of each pixel's region: 4-connected pixels of one label.

    >>> label_regions(np.array([[1, 1, 2], [3, 1, 2], [1, 3, 2]])).tolist()
    [[0, 0, 1], [2, 0, 1], [3, 4, 1]]
    """
    height, width = labels.shape
    # All labels at once: pixels at the even places, and a bridge between two neighbours where their
    # labels agree.
    grid = np.zeros((2 * height - 1, 2 * width - 1), np.uint8)
    grid[::2, ::2] = 1
    grid[1::2, ::2] = labels[1:] == labels[:-1]
    grid[::2, 1::2] = labels[:, 1:] == labels[:, :-1]
    return cv2.connectedComponents(grid, connectivity=4, ltype=cv2.CV_32S)[1][::2, ::2] - 1
