"""Generated batches: what a training data loader would give, without its data."""

from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

BLOCK = 8  # pixels a side; labels of single pixels would not survive a map of stride 8


def blocks(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a map (1, H, W) in which each value (1, h, w) fills a block of 8×8 pixels.

    >>> blocks(torch.tensor([[[1, 2]]]), (1, 10)).tolist()
    [[[1, 1, 1, 1, 1, 1, 1, 1, 2, 2]]]
    """
    height, width = size
    large = values.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    return large[:, :height, :width].clone()


def blocks_of(size: tuple[int, int]) -> tuple[int, int, int]:
    """Return the shape of the values of which :func:`blocks` makes a map of this size.

    >>> blocks_of((16, 17))
    (1, 2, 3)
    """
    return 1, -(-size[0] // BLOCK), -(-size[1] // BLOCK)


def map_sample(name: str, values: Tensor) -> SegDataSample:
    """Return the data sample of a map (1, H, W), as mmseg's pipelines pack it, without padding."""
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


def label_map(
    classes: int,
    size: tuple[int, int],
    generator: torch.Generator,
    masked: bool,
    ignore_index: int = 255,
) -> SegDataSample:
    """Return a sample with blocks of random classes, and their edges, which a PIDNet learns from.

    Args:
        classes: How many.
        size: Height and width.
        generator: Of the classes.
        masked: Whether every 20th row is ignored, so that masks have something to mask.
        ignore_index: The label of what is ignored.
    """
    clean = blocks(torch.randint(0, classes, blocks_of(size), generator=generator), size)
    labels = clean.clone()
    if masked:
        labels[:, 19::20] = ignore_index
    sample = map_sample('gt_sem_seg', labels)
    sample.set_data(dict(gt_edge_map=PixelData(data=edges_of(clean))))
    return sample


def generated_batch(
    batch_size: int,
    size: tuple[int, int],
    task: Any,
    seed: int = 0,
    device: str | torch.device = 'cpu',
) -> dict:
    """Return random inputs and labels, as a data loader gives them to a model of this task.

    Args:
        batch_size: Number of images.
        size: Height and width.
        task: What the inputs and labels are, a :class:`mmkd.tasks.base.Task`.
        seed: Seed of everything that is random.
        device: Where the tensors lie.

    Returns:
        ``dict(inputs=[uint8 (3, H, W)], data_samples=[a data sample])``.

    >>> from mmkd.tasks import Segmentation
    >>> batch = generated_batch(2, (4, 8), Segmentation(num_classes=3))
    >>> len(batch['inputs']), batch['inputs'][0].shape, batch['data_samples'][0].gt_sem_seg.shape
    (2, torch.Size([3, 4, 8]), (4, 8))
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for index, one in enumerate(task.inputs(batch_size, size, generator)):
        inputs.append(one.to(device))
        samples.append(task.sample(size, generator).to(device))
        samples[-1].set_metainfo(dict(sample_idx=index))
    return dict(inputs=inputs, data_samples=samples)
