"""Generated batches: what a training data loader would give, without its data."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

from mmkd.tasks.base import CLASSIFICATION, DEPTH, DETECTION, Task, task_of

if TYPE_CHECKING:
    from mmseg.structures import SegDataSample

DEFAULT_SIZE, DETECTION_SIZE = (64, 64), (256, 256)  # where no data preprocessor says one


def default_size(model: Any) -> tuple[int, int]:
    """Return a size on which a model can be run; the coarsest level of a detector has a stride of 128."""
    return DETECTION_SIZE if task_of(model).kind == DETECTION else DEFAULT_SIZE


def map_sample(name: str, values: Tensor) -> 'SegDataSample':
    """Return the data sample of a map (1, H, W), as a training pipeline of mmseg packs it, without padding."""
    from mmseg.structures import SegDataSample

    size = tuple(values.shape[1:])
    sample = SegDataSample(**{name: PixelData(data=values)})
    sample.set_metainfo(
        dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=(0, 0, 0, 0))
    )
    return sample


def edges_of(labels: Tensor) -> Tensor:
    """Return 1 where the pixel to the right or below has another label, 0 elsewhere, of (1, H, W).

    >>> edges_of(torch.tensor([[[0, 0, 1], [0, 0, 1], [2, 2, 2]]])).tolist()
    [[[0, 1, 0], [1, 1, 1], [0, 0, 0]]]
    """
    edges = torch.zeros_like(labels)
    edges[:, :, :-1] |= (labels[:, :, 1:] != labels[:, :, :-1]).to(edges.dtype)
    edges[:, :-1] |= (labels[:, 1:] != labels[:, :-1]).to(edges.dtype)
    return edges


def det_sample(boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Any:
    """Return the data sample of boxes (M, 4) and labels (M,), as mmdet's data preprocessor leaves it.

    Each box is its own mask too, which detectors that segment read.
    """
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    instances = InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(masks, *size))
    sample = DetDataSample(
        gt_instances=instances, ignored_instances=InstanceData(bboxes=boxes[:0], labels=labels[:0])
    )
    sample.set_metainfo(
        dict(
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1.0, 1.0),
        )
    )
    return sample


def cls_sample(label: Tensor) -> BaseDataElement:
    """Return the data sample of a class label (1,), as a training pipeline of classification packs it."""
    return BaseDataElement(gt_label=label)


def generated_sample(
    task: Task,
    size: tuple[int, int],
    generator: torch.Generator,
    device: str | torch.device = 'cpu',
    masked: bool = True,
) -> BaseDataElement:
    """Return one sample of random labels, of what a model of this task learns from; label maps where that is unknown.

    Maps hold blocks of 8×8; beside a label map lie its edges, which a PIDNet learns from. Where
    ``masked``, every 20th row of a label map is the ignore index 255, and of a depth map 0, so that
    masks have something to mask.
    """
    height, width = size
    classes = task.num_classes or 2
    if task.kind == CLASSIFICATION:
        return cls_sample(torch.randint(0, classes, (1,), generator=generator).to(device))
    if task.kind == DETECTION:
        label = torch.randint(0, classes, (1,), generator=generator)
        box = torch.tensor([[width / 4, height / 4, 3 * width / 4, 3 * height / 4]])
        return det_sample(box.to(device), label.to(device), size)
    shape = (1, -(-height // 8), -(-width // 8))
    if task.kind == DEPTH:
        low, high = task.depth
        blocks = low + (high - low) * (0.1 + 0.8 * torch.rand(shape, generator=generator))
    else:
        blocks = torch.randint(0, classes, shape, generator=generator)
    values = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width].clone()
    clean = values.clone()
    if masked:
        values[:, 19::20] = 0 if task.kind == DEPTH else 255
    if task.kind == DEPTH:
        return map_sample('gt_depth_map', values.to(device))
    sample = map_sample('gt_sem_seg', values.to(device))
    sample.set_data(dict(gt_edge_map=PixelData(data=edges_of(clean).to(device))))
    return sample


def generated_batch(
    batch_size: int,
    size: tuple[int, int],
    task: Task,
    seed: int = 0,
    device: str | torch.device = 'cpu',
    preprocessor: nn.Module | None = None,
) -> dict:
    """Return random images and labels, as a data loader gives them to a model of this task.

    Args:
        batch_size: Number of images.
        size: Height and width.
        task: What the labels are, see :func:`generated_sample`.
        seed: Seed of everything that is random.
        device: Where the tensors lie.
        preprocessor: One that generates its own inputs (``generate(number, generator)``), such as
            sentences, does.

    Returns:
        ``dict(inputs=[uint8 (3, H, W)], data_samples=[a data sample])``.

    >>> batch = generated_batch(2, (4, 8), Task('segmentation', 3))
    >>> len(batch['inputs']), batch['inputs'][0].shape, batch['data_samples'][0].gt_sem_seg.data.shape
    (2, torch.Size([3, 4, 8]), torch.Size([1, 4, 8]))
    """
    generator = torch.Generator().manual_seed(seed)
    images: list[Tensor] = []
    samples: list[BaseDataElement] = []
    if hasattr(preprocessor, 'generate'):
        images = [x.to(device) for x in preprocessor.generate(batch_size, generator)]  # type: ignore[union-attr, operator]
    for index in range(batch_size):
        if len(images) < batch_size:
            images.append(
                torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator).to(device)
            )
        samples.append(generated_sample(task, size, generator, device))
        samples[-1].set_metainfo(dict(sample_idx=index))
    return dict(inputs=images, data_samples=samples)
