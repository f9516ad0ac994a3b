"""Detection: boxes with classes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmkd.registry import TASKS
from mmkd.structures.batch import Batch, is_labelled
from mmkd.structures.trace import Trace
from mmkd.tasks.base import Tapped, Task, first_number, last_head
from mmkd.tasks.labels import with_data


def padding_of(batch: Batch) -> Tensor:
    """Return where images are padded (N, H, W), True right of and below each one's own size."""
    size = batch.inputs.shape[2:]
    padding = torch.ones(len(batch.inputs), *size, dtype=torch.bool, device=batch.inputs.device)
    samples = batch.data_samples or [None] * len(padding)
    for own, sample in zip(padding, samples, strict=True):
        height, width = getattr(sample, 'img_shape', size)[:2]
        own[:height, :width] = False
    return padding


@TASKS.register_module()
@dataclass(frozen=True)
class Detection(Task):
    """Detectors of mmdet: what has a ``bbox_head``, of its own or in a ``roi_head``.

    Args:
        num_classes: Classes of the model.
        ignore_index: Of no meaning.
        masks: Whether it learns masks too.
    """

    masks: bool = False

    kind = 'detection'
    field = 'gt_instances'
    holding = 'boxes'
    paths = ('seg_map_path', 'img_path')
    size = (256, 256)  # the coarsest level has a stride of 128
    reads = dict(padding=padding_of)

    @classmethod
    def of(cls, model: Any, source: Any = None) -> 'Detection | None':
        """Know a model by its ``bbox_head``, unless it has a ``decode_head`` too."""
        if last_head(model) is not None:
            return None
        owners = model, getattr(model, 'roi_head', None)
        masks = any(getattr(owner, 'mask_head', None) is not None for owner in owners)
        for owner in owners:
            head: Any = getattr(owner, 'bbox_head', None)
            if head is not None and type(model).__name__ == 'RPN':
                return cls()  # it takes every box for one of class 0
            if head is not None:  # a cascade has one a stage
                last = head[-1] if isinstance(head, nn.ModuleList | list) else head
                return cls(first_number(last), masks=masks)
        return None

    def says(self, model: Any, prediction: Trace) -> Iterator[Tensor]:
        """Yield the scores of every level of a dense head, the finest first.

        A second stage and queries have none, and a head whose one answer holds boxes too.
        """
        yield from _levels(prediction, 0)

    def edges(self, model: Any, prediction: Trace) -> Iterator[Tensor]:
        """Yield the distributions of edges of every level of a dense head, the finest first.

        Most heads predict four numbers a position, or for each anchor: no distributions.
        """
        last = getattr(getattr(model, 'bbox_head', None), 'reg_max', None)
        for made in _levels(prediction, 1):
            if last and made.shape[1] == 4 * (last + 1):
                yield made

    @classmethod
    def check_places(cls, objective: str, tapped: Tapped, by_channel: bool) -> None:
        """Refuse second stages of two members, which see each one's own proposals."""
        second = {
            name.split('.')[0] for name, (_, path) in tapped.items() if path.startswith('roi_head.')
        }
        if len(second) > 1:
            raise ValueError(
                f'objective {objective!r} compares the roi_head of {" and ".join(sorted(second))}, '
                'which see proposals of their own: row i of one is another box than row i of the '
                'other. Mend: tap the neck or the rpn_head'
            )

    @classmethod
    def tell_poor(cls, metrics: Mapping[str, float], classes: int) -> str | None:
        """Speak of a detector that finds nothing, of which mmdet reports nothing."""
        if metrics and metrics.get('coco/bbox_mAP', 1.0) >= 0.01:
            return None
        found = metrics.get('coco/bbox_mAP', 0.0)
        return f'finds {"next to " * bool(metrics)}nothing (coco/bbox_mAP {found:.4g})'

    def boxes(self, batch: Batch) -> list[Tensor]:
        """Return the boxes of each image (M, 4), in pixels of the input."""
        found = [sample.gt_instances.bboxes for sample in batch.data_samples or []]
        return [torch.as_tensor(getattr(boxes, 'tensor', boxes)) for boxes in found]

    def check(self, batch: Batch, num_classes: int | None) -> bool:
        """Refuse classes that the student lacks: some heads take them for background."""
        each = _labels(batch)
        if num_classes is None or not each:
            return True
        labels = torch.cat(each)
        wrong = (labels < 0) | (labels >= num_classes)
        if wrong.any():
            sizes = [len(own) for own in each]
            theirs = torch.stack([part.any() for part in wrong.split(sizes)])
            raise ValueError(
                f'boxes have the labels {labels[wrong].unique().tolist()[:8]}, but the student has '
                f'{num_classes} classes (0 … '
                f'{num_classes - 1}){batch.files(*self.paths, chosen=theirs)}. Mend: num_classes '
                'of the head, or metainfo=dict(classes=…) of the data set'
            )
        return True

    def void(self, batch: Batch, places: Sequence[int]) -> list:
        """Give no boxes, of the kind that the images beside have."""
        known = [one for one in batch.data_samples or [] if is_labelled(one) and self.field in one]
        if known:
            return with_data(batch, places, **{self.field: known[0].get(self.field)[:0]})
        boxes = batch.inputs.new_zeros((0, 4), dtype=torch.float32)
        size = int(batch.inputs.shape[2]), int(batch.inputs.shape[3])
        none = det_sample(boxes, boxes[:, 0].long(), size, self.masks).get(self.field)
        return with_data(batch, places, **{self.field: none})

    def resized(self, samples: list | None, old: Sequence[int], new: Sequence[int]) -> list | None:
        """Give sizes, boxes and masks in the pixels of the images resized."""
        return samples and [
            _resized(sample, new[0] / old[0], new[1] / old[1]) for sample in samples
        ]

    def count(self, batch: Batch) -> Counter:
        """Count images, boxes, and boxes of each class."""
        each = _labels(batch)
        counts = Counter(images=len(each), without=sum(not len(own) for own in each))
        for own in each:
            counts.update(boxes=len(own))
            counts.update(own.tolist())
        return counts

    def tell(self, counts: Counter) -> tuple[list[tuple[str, str]], list[str]]:
        """Tell how many boxes there are; warn where there is none at all."""
        images, boxes, without = counts['images'], counts['boxes'], counts['without']
        seen = [key for key in counts if isinstance(key, int) and key >= 0]
        of = ''
        if self.num_classes is not None:
            seen, of = [key for key in seen if key < self.num_classes], f' of {self.num_classes}'
        rows = [
            ('boxes an image', f'{boxes / max(images, 1):.1f}'),
            ('images without boxes', f'{without} of {images}'),
            ('classes seen', f'{len(seen)}{of}'),
        ]
        warning = (
            f'none of the first {images} images has a box: if none has, the student learns from '
            'its teachers alone. If that is not meant: metainfo=dict(classes=…) of the data set '
            'must be the names in its annotation file, letter by letter; boxes of other names are '
            'dropped'
        )
        return rows, [warning] if images and not boxes else []

    def sample(self, size: tuple[int, int], generator: torch.Generator, masked: bool = True) -> Any:
        """Return one box of a random class, in the middle of the image."""
        height, width = size
        label = torch.randint(0, self.num_classes or 2, (1,), generator=generator)
        box = torch.tensor([[width / 4, height / 4, 3 * width / 4, 3 * height / 4]])
        return det_sample(box, label, size, self.masks)


def _levels(prediction: Trace, place: int) -> list[Tensor]:
    """Return what stands at a place of a dense head's answer: maps, the finest level first."""
    for call in prediction.of('bbox_head')[:1]:
        answer = call.output if isinstance(call.output, list | tuple) else ()
        given = answer[place] if len(answer) > 1 else ()
        maps = given if isinstance(given, list | tuple) else ()
        maps = [made for made in maps if isinstance(made, Tensor) and made.dim() == 4]
        return sorted(maps, key=lambda made: -made.shape[2] * made.shape[3])
    return []


SIZES = ('img_shape', 'pad_shape', 'batch_input_shape')


def _resized(sample: Any, y: float, x: float) -> Any:
    """Return a copy of a sample whose image is y times as high and x times as wide."""
    sample = sample.clone()
    for key in [key for key in SIZES if key in sample]:
        height, width = sample.get(key)[:2]
        sample.set_field((round(height * y), round(width * x)), key, field_type='metainfo')
    if 'scale_factor' in sample:  # by which what is predicted gets back to the original image
        width, height = sample.scale_factor[:2]
        sample.set_field((width * x, height * y), 'scale_factor', field_type='metainfo')
    for field in ('gt_instances', 'ignored_instances'):
        if field in sample:
            _resize_instances(sample.get(field), y, x)
    return sample


def _resize_instances(instances: Any, y: float, x: float) -> None:
    if 'bboxes' in instances:
        boxes = instances.bboxes
        if isinstance(boxes, Tensor):
            instances.bboxes = boxes * boxes.new_tensor([x, y, x, y])
        else:  # of a kind of mmdet's, which are changed in place
            instances.bboxes = boxes.clone()
            instances.bboxes.rescale_((x, y))
    if 'masks' in instances:
        masks = instances.masks
        instances.masks = masks.resize((round(masks.height * y), round(masks.width * x)))


def _labels(batch: Batch) -> list[Tensor]:
    return [torch.as_tensor(sample.gt_instances.labels) for sample in batch.data_samples or []]


def det_sample(boxes: Tensor, labels: Tensor, size: tuple[int, int], masked: bool = False) -> Any:
    """Return the sample of boxes (M, 4) and labels (M,), as mmdet's data preprocessor leaves it.

    Args:
        boxes: Left, top, right, bottom.
        labels: Their classes.
        size: Height and width of the image.
        masked: Whether each box is its own mask too, which detectors that segment read; others may
            fail on it.
    """
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    instances = InstanceData(bboxes=boxes, labels=labels)
    if masked:
        masks = np.zeros((len(boxes), *size), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        instances.masks = BitmapMasks(masks, *size)
    nothing = InstanceData(bboxes=boxes[:0], labels=labels[:0])
    sample = DetDataSample(gt_instances=instances, ignored_instances=nothing)
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size)
    sample.set_metainfo(dict(**shapes, scale_factor=(1.0, 1.0)))
    return sample
