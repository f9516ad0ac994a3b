"""The batch, of which objectives may read ``batch.inputs``, ``labels``, ``valid`` and others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED_IMAGE = -100  # the label of a whole image that does not count, torch's own
LABELLED = 'labelled'  # in a sample's metainfo, False: an image without labels, on purpose
REPEATED = 'repeated'  # likewise, True: an image of the step before, which comes again
OF_IMAGES = ('labelled', 'unlabelled', 'repeated')  # reads that say one thing of a whole image


@dataclass
class Batch:
    """One preprocessed batch; what its labels mean, it asks its task.

    Images without labels, whose samples say ``labelled=False`` in their metainfo, get labels of
    which nothing counts: whatever reads labels passes them over.

    Args:
        inputs: Preprocessed images (N, 3, H, W), or sentences (N, 3, L): token ids, attention mask,
            segments.
        data_samples: mmengine data samples with labels.
        ignore_index: The label of a pixel that does not count. The label of a whole image always
            counts (255 is a class of ImageNet like any other) unless it is −100.
        task: That of the model that learns, a :class:`mmkd.tasks.Task`; where the samples hold no
            labels of that one, or it is None, the task is found by what they hold.

    Raises:
        TypeError: The images are a list, which no preprocessor has stacked.
    """

    inputs: Tensor
    data_samples: list | None = None
    ignore_index: int = 255
    task: Any = None

    # Tasks lie above batches and set these two: whose labels samples hold, and what may be read.
    find_task: ClassVar[Callable[[list | None, Any], Any]]
    offered_reads: ClassVar[Callable[[], dict[str, Callable[['Batch'], Any]]]]

    def __post_init__(self) -> None:
        """Refuse images that nothing has stacked; find the task; give labels to who has none."""
        _check_stacked(self.inputs)
        self.task = Batch.find_task(self.data_samples, self.task)
        if self.unlabelled_at:
            self.data_samples = self.task.void(self, self.unlabelled_at)

    @cached_property
    def labelled_at(self) -> list[int]:
        """The places of images with labels."""
        samples = self.data_samples or [None] * len(self.inputs)
        return [i for i, sample in enumerate(samples) if is_labelled(sample)]

    @cached_property
    def unlabelled_at(self) -> list[int]:
        """The places of images without."""
        return [i for i, sample in enumerate(self.data_samples or []) if not is_labelled(sample)]

    @cached_property
    def labelled(self) -> Tensor:
        """True for images with labels, (N,)."""
        own = [is_labelled(sample) for sample in self.data_samples or [None] * len(self.inputs)]
        return torch.tensor(own, device=self.inputs.device)

    @property
    def unlabelled(self) -> Tensor:
        """True for images without, (N,)."""
        return ~self.labelled

    @cached_property
    def repeated_at(self) -> list[int]:
        """The places of images that the batch of the step before held as well."""
        return [i for i, sample in enumerate(self.data_samples or []) if is_repeated(sample)]

    @property
    def repeated(self) -> Tensor:
        """True for images that the batch of the step before held as well, (N,)."""
        there = set(self.repeated_at)
        own = [i in there for i in range(len(self.inputs))]
        return torch.tensor(own, device=self.inputs.device)

    def part(self, places: Sequence[int]) -> 'Batch':
        """Return the batch of some of its images, in this order.

        >>> Batch(torch.arange(6.).view(3, 2)).part([2, 0]).inputs.tolist()
        [[4.0, 5.0], [0.0, 1.0]]
        """
        samples = self.data_samples and [self.data_samples[i] for i in places]
        return replace(self, inputs=self.inputs[list(places)], data_samples=samples)

    @cached_property
    def labels(self) -> Tensor:
        """Labels (N, H, W), or (N,) for classification.

        Raises:
            ValueError: The data samples hold no labels.
        """
        return self.task.labels(self)

    @property
    def boxes(self) -> list[Tensor]:
        """Boxes of the objects of each image, (M, 4) as left, top, right, bottom in input pixels.

        Raises:
            ValueError: The data samples hold no boxes.
        """
        return self.task.boxes(self)

    @property
    def ignored(self) -> int:
        """The label that does not count."""
        return self.task.ignored(self)

    @property
    def valid(self) -> Tensor:
        """True where the label counts, shape of ``labels``; (N, H, W) where depth is known."""
        return self.task.valid(self)

    def check_labels(self, num_classes: int | None) -> bool:
        """Refuse labels that a student of so many classes cannot learn from.

        Returns:
            Whether any position is valid.

        Raises:
            ValueError: There are such labels; names the files that hold them.
        """
        return self.task.check(self, num_classes)

    def tell_void(self) -> str:
        """Return what is to be said of a batch without a valid position."""
        return self.task.tell_void(self)

    def files(self, *keys: str, chosen: Tensor | None = None) -> str:
        """Return where the samples come from, as errors print it, see :func:`files_of`.

        Args:
            *keys: Of their metainfo; the first one that a sample knows is taken.
            chosen: True for the samples that the error is about, (N,); None: all.
        """
        samples = self.data_samples or []
        if chosen is not None:
            samples = [sample for sample, own in zip(samples, chosen.tolist(), strict=True) if own]
        return files_of(samples, *keys)


def is_labelled(sample: Any) -> bool:
    """Return whether an image has labels; what does not say otherwise does.

    >>> from mmengine.structures import BaseDataElement
    >>> sample = BaseDataElement(metainfo=dict(labelled=False))
    >>> is_labelled(sample), is_labelled(BaseDataElement()), is_labelled(None)
    (False, True, True)
    """
    return bool(getattr(sample, 'metainfo', {}).get(LABELLED, True))


def is_repeated(sample: Any) -> bool:
    """Return whether an image comes again, as it was in the step before.

    >>> from mmengine.structures import BaseDataElement
    >>> sample = BaseDataElement(metainfo=dict(repeated=True))
    >>> is_repeated(sample), is_repeated(BaseDataElement()), is_repeated(None)
    (True, False, False)
    """
    return bool(getattr(sample, 'metainfo', {}).get(REPEATED, False))


class BatchReads(Sequence):
    """Names that objectives may read of a batch; those that tasks offer are looked up each time.

    >>> list(BATCH_READS)[:6]
    ['inputs', 'labels', 'valid', 'labelled', 'unlabelled', 'repeated']
    >>> list(BATCH_READS)[6:]
    ['padding', 'tokens', 'data_samples']
    """

    def _names(self) -> list[str]:
        return ['inputs', 'labels', 'valid', *OF_IMAGES, *Batch.offered_reads(), 'data_samples']

    def __getitem__(self, index: Any) -> Any:
        """Return a name by its place."""
        return self._names()[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._names())

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._names())


BATCH_READS = BatchReads()


def _check_stacked(inputs: Any) -> None:
    if isinstance(inputs, list | tuple):
        raise TypeError(
            f'the data preprocessor left a {type(inputs).__name__} of images, where a model reads '
            "one tensor. Mend: data_preprocessor=dict(type='SegDataPreProcessor', …) in the "
            "student's model"
        )


def files_of(samples: list, *keys: str) -> str:
    """Return where samples come from, as errors print it: two of them, the others by number.

    Args:
        samples: Those that the error is about, not the whole batch.
        *keys: Of their metainfo; the first one that a sample knows is taken.

    >>> from mmengine.structures import BaseDataElement
    >>> samples = [BaseDataElement(metainfo=dict(img_path=f'{i}.png')) for i in range(4)]
    >>> files_of(samples, 'img_path')
    ' (from 0.png, 1.png and 2 more)'
    """
    paths: list[str] = []
    for sample in samples:
        known = [str(sample.metainfo[key]) for key in keys if sample.metainfo.get(key)]
        paths += [path for path in known[:1] if path not in paths]
    more = f' and {len(paths) - 2} more' if len(paths) > 2 else ''
    return f' (from {", ".join(paths[:2])}{more})' if paths else ''


def resize_labels(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize labels or a mask (N, H, W) by nearest neighbour, to the size of a loss's map.

    >>> import torch
    >>> resize_labels(torch.tensor([[[1, 1, 2, 2], [1, 1, 2, 2]]]), (1, 2)).tolist()
    [[[1, 2]]]

    Raises:
        ValueError: The map has no such places.
    """
    if tuple(labels.shape[1:]) == tuple(size) or labels.dim() == 1:
        return labels
    if len(size) != 2:
        raise ValueError(
            f'labels and masks of the batch have places {tuple(labels.shape)}, but the student '
            f'tensor that they go with has {len(size)} spatial axes. Mend: tap a map (N, C, H, W), '
            'or read none'
        )
    return F.interpolate(labels[:, None].float(), size=size, mode='nearest')[:, 0].to(labels.dtype)


def read_batch(batch: Batch, name: str, like: Any) -> Any:
    """Return ``batch.<name>``; labels and masks at the spatial size of ``like``.

    >>> batch = Batch(torch.zeros(2, 3, 4, 4))
    >>> read_batch(batch, 'labelled', torch.zeros(2, 5, 1, 2)).tolist()
    [[[True, True]], [[True, True]]]

    Args:
        batch: The batch.
        name: One of ``BATCH_READS``.
        like: The student's tensor that they go with.
    """
    offered = Batch.offered_reads()
    value = offered[name](batch) if name in offered else getattr(batch, name)
    if name in ('labels', 'valid') and isinstance(like, Tensor):
        return resize_labels(value, tuple(like.shape[2:]))
    if name in OF_IMAGES and isinstance(like, Tensor):
        size = like.shape[2:]
        return value.view(-1, *[1] * len(size)).expand(-1, *size)
    return value
