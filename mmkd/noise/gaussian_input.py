"""Soft Randomization: students see images with Gaussian noise, the teacher sees them clean."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmkd.noise.base import Host, Noise
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.utils.checks import check_non_negative
from mmkd.utils.pixels import pixel_statistics


@MODELS.register_module()
class GaussianInput(Noise):
    r"""Add Gaussian noise to the images of students, in every one of their terms.

    Paper: Arani, Sarfraz, Zonooz, Noise as a Resource for Learning in Knowledge Distillation, WACV
    2021, arXiv 1910.05057, Soft Randomization:

    .. math:: \mathcal L = (1-\alpha)\,CE(S(x+\delta), y)
              + \alpha\tau^2 KL(T^\tau(x) \Vert S^\tau(x+\delta)),
              \quad \delta \sim \mathcal N(0, \sigma^2)

    Additive, independent for each value of each image, and not clipped to [0, 1], as in the
    equation. Several students get noise of their own each. In a Distiller the batch is normalised
    already, so channel c gets noise of 255·std / std_c in the order that the data preprocessor
    leaves the channels in (×255 where it does not normalise): exactly noise on [0, 1] pixels.
    Padding stays as it is.

    Args:
        std: σ in units of [0, 1] pixels, 0 or above.
        members: Students that see it; None: all.

    Raises:
        ValueError: A std that is negative or not finite.
        TypeError: The inputs are no images (token ids have no pixels).

    >>> _ = torch.manual_seed(0)
    >>> images = torch.full((64, 3, 32, 32), 0.5)
    >>> (GaussianInput(std=0.1)(images) - images).std()
    tensor(0.1000)
    """

    def __init__(self, std: float, members: Sequence[str] | None = None) -> None:
        super().__init__(members)
        check_non_negative('std of GaussianInput', std)
        self.std = std
        self.scale = torch.tensor(std)

    def __call__(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W) of [0, 1] pixels with noise; the values may leave [0, 1]."""
        return _add(images, torch.tensor(self.std))

    def bind(self, host: Host) -> None:
        """Take the standard deviation that the images are divided by."""
        self.scale = 255 * self.std / pixel_statistics(host.preprocessor)[1]

    def on_batch(self, batch: Batch) -> Batch:
        """Return the batch with noise on its images, padding left out."""
        noisy = _add(batch.inputs, self.scale)
        height, width = noisy.shape[2:]
        for i, sample in enumerate(batch.data_samples or []):
            h, w = sample.metainfo.get('img_shape', (height, width))[:2]
            if (h, w) != (height, width):
                noisy[i, :, h:] = batch.inputs[i, :, h:]
                noisy[i, :, :, w:] = batch.inputs[i, :, :, w:]
        return replace(batch, inputs=noisy)


def _add(images: Tensor, scale: Tensor) -> Tensor:
    if images.dim() != 4 or not images.is_floating_point():
        raise TypeError(
            'GaussianInput needs images (N, C, H, W) of floating point, got '
            f'{str(images.dtype).removeprefix("torch.")} {tuple(images.shape)}. Mend: images in '
            '[0, 1]; a text has no pixels'
        )
    return torch.addcmul(images, torch.randn_like(images), scale.to(images))
