"""Generated batches: what a training data loader would give, without its data."""
from typing import TYPE_CHECKING

import torch
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn

if TYPE_CHECKING:
    from mmseg.structures import SegDataSample

DEFAULT_SIZE = (64, 64)  # where no data preprocessor says one


def has_image_labels(model: nn.Module) -> bool:
    """Return whether a model learns from one label a sample, as classifiers do, in place of label maps."""
    return not hasattr(model, 'decode_head') and (hasattr(model, 'head') or hasattr(model, 'num_classes'))


def seg_sample(labels: Tensor) -> 'SegDataSample':
    """Return the data sample of a label map (1, H, W), as a training pipeline of mmseg packs it, without padding."""
    from mmseg.structures import SegDataSample

    size = tuple(labels.shape[1:])
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    sample.set_metainfo(dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=(0, 0, 0, 0)))
    return sample


def cls_sample(label: Tensor) -> BaseDataElement:
    """Return the data sample of a class label (1,), as a training pipeline of classification packs it."""
    return BaseDataElement(gt_label=label)


def generated_batch(batch_size: int, size: tuple[int, int], num_classes: int, seed: int = 0,
                    device: str | torch.device = 'cpu', per_image: bool = False,
                    preprocessor: nn.Module | None = None) -> dict:
    """Return random images and blocks of random labels, as a data loader of mmseg gives them.

    The last two columns of blocks are the ignore index 255 and so is every 20th pixel row, so that masks have
    something to mask.

    Args:
        batch_size: Number of images.
        size: Height and width.
        num_classes: Labels are 0 … num_classes − 1, and 255.
        seed: Seed of everything that is random.
        device: Where the tensors lie.
        per_image: One label an image, as for a classifier; none is ignored.
        preprocessor: One that generates its own inputs (``generate(number, generator)``), such as sentences, does.

    Returns:
        ``dict(inputs=[uint8 (3, H, W)], data_samples=[SegDataSample])``, or ``BaseDataElement`` with ``gt_label``.

    >>> batch = generated_batch(2, (4, 8), num_classes=3)
    >>> len(batch['inputs']), batch['inputs'][0].shape, batch['data_samples'][0].gt_sem_seg.data.shape
    (2, torch.Size([3, 4, 8]), torch.Size([1, 4, 8]))
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    images: list[Tensor] = []
    samples: list[BaseDataElement] = []
    if hasattr(preprocessor, 'generate'):
        images = [x.to(device) for x in preprocessor.generate(batch_size, generator)]  # type: ignore[union-attr, operator]
    for index in range(batch_size):
        if len(images) < batch_size:
            images.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator).to(device))
        if per_image:
            samples.append(cls_sample(torch.randint(0, num_classes, (1,), generator=generator).to(device)))
            samples[-1].set_metainfo(dict(sample_idx=index))
            continue
        blocks = torch.randint(0, num_classes, (1, -(-height // 8), -(-width // 8)), generator=generator)
        labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width].clone()
        labels[:, 19::20] = 255
        samples.append(seg_sample(labels.to(device)))
        samples[-1].set_metainfo(dict(sample_idx=index))
    return dict(inputs=images, data_samples=samples)
