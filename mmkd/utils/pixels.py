"""Pixels: how a data preprocessor normalises, pads and orders the channels of images."""

import torch
from torch import Tensor, nn


def flips_channels(preprocessor: nn.Module) -> bool:
    """Return whether a data preprocessor turns BGR into RGB, or RGB into BGR.

    mmengine and what derives from it say ``_channel_conversion``, mmpretrain ``to_rgb``,
    mmsegmentation until 1.2 ``channel_conversion``.

    >>> from mmengine.model import ImgDataPreprocessor
    >>> flips_channels(ImgDataPreprocessor(bgr_to_rgb=True)), flips_channels(ImgDataPreprocessor())
    (True, False)
    """
    names = '_channel_conversion', 'channel_conversion', 'to_rgb'
    return any(getattr(preprocessor, name, False) for name in names)


def pixel_statistics(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """Return mean and std (C, 1, 1) by which a preprocessor normalises; 0 and 1 where it does not.

    >>> from mmengine.model import ImgDataPreprocessor
    >>> [x.shape for x in pixel_statistics(ImgDataPreprocessor(mean=[1.] * 3, std=[2.] * 3))]
    [torch.Size([3, 1, 1]), torch.Size([3, 1, 1])]

    Raises:
        ValueError: A standard deviation is not above 0: every pixel would be NaN or Inf.
    """
    if getattr(preprocessor, '_enable_normalize', False):
        mean, std = (
            preprocessor.get_buffer('mean').float().cpu(),
            preprocessor.get_buffer('std').float().cpu(),
        )
        if not (std > 0).all():
            raise ValueError(
                f'std of a data_preprocessor must be above 0, got {std.flatten().tolist()}. Mend: '
                "the spread of the images' channels, such as [58.395, 57.12, 57.375]"
            )
        return mean, std
    return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)


def pad_value(preprocessor: nn.Module) -> float:
    """Return what a data preprocessor pads images with, after it has normalised them."""
    return float(
        getattr(preprocessor, 'pad_val', None) or getattr(preprocessor, 'pad_value', None) or 0
    )
