"""What objectives may read of a batch: ``batch.inputs``, ``labels``, ``valid``, ``tokens``, ``data_samples``."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED_IMAGE = (
    -100
)  # the label of a whole image that does not count, torch's own; a pixel has ``ignore_index``
BATCH_READS = ('inputs', 'labels', 'valid', 'tokens', 'data_samples')


@dataclass
class Batch:
    """One preprocessed batch.

    Args:
        inputs: Preprocessed images (N, 3, H, W), or sentences (N, 3, L): token ids, attention mask,
            segments.
        data_samples: mmengine data samples with ``gt_sem_seg`` or ``gt_label``.
        ignore_index: The label of a pixel that does not count. The label of a whole image always
            counts (255 is a class of ImageNet like any other) unless it is −100.

    Raises:
        TypeError: The images are a list, which no preprocessor has stacked.
    """

    inputs: Tensor
    data_samples: list | None = None
    ignore_index: int = 255

    def __post_init__(self) -> None:
        """Refuse images that nothing has stacked."""
        if isinstance(self.inputs, list | tuple):
            raise TypeError(
                f'the data preprocessor left a {type(self.inputs).__name__} of images, where a '
                f'model reads '
                "one tensor. Mend: data_preprocessor=dict(type='SegDataPreProcessor', …) in the "
                "student's "
                'model'
            )

    @cached_property
    def labels(self) -> Tensor:
        """Labels (N, H, W), or (N,) for classification.

        Raises:
            ValueError: The data samples hold no labels.
        """
        samples = self.data_samples or []
        if samples and all('gt_sem_seg' in s for s in samples):
            return torch.stack([s.gt_sem_seg.data.squeeze(0) for s in samples])
        if samples and all('gt_label' in s for s in samples):
            return torch.cat(
                [torch.as_tensor(s.gt_label, device=self.inputs.device).view(1) for s in samples]
            )
        for key, what in (('gt_instances', 'boxes'), ('gt_depth_map', 'depth')):
            if samples and key in samples[0]:
                raise ValueError(
                    f'batch.labels: these samples hold {what}, no class of a pixel or an image. '
                    f'Mend: an '
                    'objective that reads no labels (batch.valid of a depth map is where it is '
                    'known)'
                )
        raise ValueError(
            "batch.labels: the data samples hold neither 'gt_sem_seg' nor 'gt_label'. Mend: load "
            'annotations in the training pipeline'
        )

    @property
    def ignored(self) -> int:
        """The label that does not count."""
        return self.ignore_index if self.labels.dim() > 1 else IGNORED_IMAGE

    @property
    def valid(self) -> Tensor:
        """True where the label counts, shape of ``labels``; of depth maps, (N, H, W), where depth is known."""
        samples = self.data_samples or []
        if samples and all('gt_depth_map' in s for s in samples):
            depth = torch.stack([s.gt_depth_map.data.squeeze(0) for s in samples])
            return torch.isfinite(depth) & (depth > 0)
        return self.labels != self.ignored

    @property
    def tokens(self) -> Tensor:
        """True where a sentence has a token, (N, L).

        Raises:
            ValueError: The inputs are no sentences, or one of them is nothing but padding.
        """
        if self.inputs.dim() != 3 or self.inputs.is_floating_point():
            raise ValueError(
                f'batch.tokens: the inputs {tuple(self.inputs.shape)} are no sentences (N, 3, L). '
                f'Mend: '
                'batch.valid for images'
            )
        tokens = self.inputs[:, 1].bool()
        empty = (~tokens.any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f'batch.tokens: the sentences {empty[:8]} of this batch are nothing but padding. '
                f'Mend: an '
                'attention mask of 1 where there is a token; no empty rows in the file'
            )
        return tokens

    def check_labels(self, num_classes: int) -> bool:
        """Refuse labels that no class has, before a device assert hides where they came from.

        Returns:
            Whether any position is valid.

        Raises:
            ValueError: An id is outside 0 … num_classes − 1 and is not the ignore index; names the
                files that hold it.
        """
        labels, valid = self.labels, self.valid
        wrong = valid & ((labels < 0) | (labels >= num_classes))
        has_wrong, has_valid = torch.stack([wrong.any(), valid.any()]).tolist()
        if has_wrong:
            mend = (
                'reduce_zero_label, a label_map, or num_classes'
                if labels.dim() > 1
                else 'num_classes, or the data set'
            )
            images = wrong.view(len(wrong), -1).any(1)
            raise ValueError(
                f'labels hold the ids {labels[wrong].unique().tolist()[:8]}, but the '
                f'student has {num_classes} classes (0 … {num_classes - 1}; '
                f'{self.ignored} is ignored){self._files(images)}. Mend: {mend}'
            )
        return has_valid

    def tell_void(self) -> str:
        """Return what is to be said of a batch without a valid position."""
        samples = self.data_samples or []
        if samples and all('gt_depth_map' in s for s in samples):
            return (
                'no valid position: no depth of this batch is known'
                f'{files_of(samples, *_DEPTH_FILES)}. Mend: look at the depth files, and at '
                'depth_rescale_factor'
            )
        mend = 'a data set with labels'
        if self.labels.dim() > 1:
            mend = (
                'check ignore_index, reduce_zero_label and the label files; a larger crop or '
                'RandomCrop(cat_max_ratio=0.75) avoids crops of nothing but void'
            )
        return (
            f'no valid position: every label of this batch is the ignore index {self.ignored}'
            f'{self._files()}. Mend: {mend}'
        )

    def check_boxes(self, num_classes: int) -> None:
        """Refuse boxes of classes that the student does not have: some heads take them for background, others crash.

        Raises:
            ValueError: A label is outside 0 … num_classes − 1; names the files that hold it.
        """
        samples = self.data_samples or []
        each = [torch.as_tensor(sample.gt_instances.labels) for sample in samples]
        labels = torch.cat(each)
        wrong = (labels < 0) | (labels >= num_classes)
        if wrong.any():
            theirs = torch.stack([part.any() for part in wrong.split([len(one) for one in each])])
            raise ValueError(
                f'boxes have the labels {labels[wrong].unique().tolist()[:8]}, but the '
                f'student has {num_classes} classes (0 … {num_classes - 1})'
                f'{self._files(theirs)}. Mend: num_classes of the head, or '
                'metainfo=dict(classes=…) of the data set'
            )

    def _files(self, chosen: Tensor | None = None) -> str:
        samples = self.data_samples or []
        if chosen is not None:
            samples = [sample for sample, own in zip(samples, chosen.tolist(), strict=True) if own]
        return files_of(samples, 'seg_map_path', 'img_path')


_DEPTH_FILES = 'depth_map_path', 'img_path'


def files_of(samples: list, *keys: str) -> str:
    """Return where samples come from, as errors print it: two of them, the others by number.

    Args:
        samples: Those that the error is about, not the whole batch.
        keys: Of their metainfo; the first one that a sample knows is taken.

    >>> from mmengine.structures import BaseDataElement
    >>> samples = [BaseDataElement(metainfo=dict(img_path=f'{i}.png')) for i in range(4)]
    >>> files_of(samples, 'img_path')
    ' (from 0.png, 1.png and 2 more)'
    """
    known = [
        next((str(s.metainfo[key]) for key in keys if s.metainfo.get(key)), None) for s in samples
    ]
    paths = list(dict.fromkeys(path for path in known if path))
    more = f' and {len(paths) - 2} more' if len(paths) > 2 else ''
    return f' (from {", ".join(paths[:2])}{more})' if paths else ''


def resize_labels(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize labels or a mask (N, H, W) to ``size`` by nearest neighbour, as a loss's map needs them.

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
            f'tensor '
            f'that they go with has {len(size)} spatial axes. Mend: tap a map (N, C, H, W), or '
            f'read none'
        )
    return F.interpolate(labels[:, None].float(), size=size, mode='nearest')[:, 0].to(labels.dtype)


def read_batch(batch: Batch, name: str, like: Any) -> Any:
    """Return ``batch.<name>``; labels and masks at the spatial size of ``like``."""
    value = getattr(batch, name)
    if name in ('labels', 'valid') and isinstance(like, Tensor):
        return resize_labels(value, tuple(like.shape[2:]))
    return value
