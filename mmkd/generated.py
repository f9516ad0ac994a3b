"""Generated batches: what a training data loader would give, without its data."""
import torch
from mmengine.structures import PixelData


def generated_batch(batch_size: int, size: tuple[int, int], num_classes: int, seed: int = 0,
                    device: str | torch.device = 'cpu') -> dict:
    """Return random images and blocks of random labels, as a data loader of mmseg gives them.

    The last two columns of blocks are the ignore index 255 and so is every 20th pixel row, so that masks have
    something to mask.

    Args:
        batch_size: Number of images.
        size: Height and width.
        num_classes: Labels are 0 … num_classes − 1, and 255.
        seed: Seed of everything that is random.
        device: Where the tensors lie.

    Returns:
        ``dict(inputs=[uint8 (3, H, W)], data_samples=[SegDataSample])``.

    >>> batch = generated_batch(2, (4, 8), num_classes=3)
    >>> len(batch['inputs']), batch['inputs'][0].shape, batch['data_samples'][0].gt_sem_seg.data.shape
    (2, torch.Size([3, 4, 8]), torch.Size([1, 4, 8]))
    """
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(seed)
    height, width = size
    images, samples = [], []
    for _ in range(batch_size):
        images.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator).to(device))
        blocks = torch.randint(0, num_classes, (1, -(-height // 8), -(-width // 8)), generator=generator)
        labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width].clone()
        labels[:, 19::20] = 255
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels.to(device)))
        sample.set_metainfo(dict(img_shape=tuple(size), ori_shape=tuple(size), pad_shape=tuple(size),
                                 padding_size=(0, 0, 0, 0)))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)
