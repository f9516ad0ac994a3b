"""The critic of holistic distillation: scores how well a whole score map goes with its image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice


class SelfAttention2d(nn.Module):
    """Self-attention of SAGAN over all places: ``x + gamma * v softmax(q^T k)^T``.

    It is the identity while gamma is 0.
    Written with matmul: torch's fused attention has no second derivative, which the gradient
    penalty needs.

    Args:
        channels: Channels of the map, a multiple of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return a map like ``x`` (N, C, H, W)."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        attention = (query.transpose(1, 2) @ key).softmax(-1)
        return self.gamma * (value @ attention.transpose(1, 2)).view_as(x) + x


@MODELS.register_module()
class HolisticCritic(nn.Module):
    """Fully convolutional critic with spectral norm and two self-attention blocks.

    Paper: Liu et al., Structured Knowledge Distillation for Dense Prediction, CVPR 2019 / TPAMI
    2020, arXiv 1903.04197, eq. 4: D(Q|I). Blocks [4×4 convolution of stride 2, LeakyReLU 0.1],
    self-attention after the last two, and a 4×4 convolution to one score. A map of 64×64 or 65×65
    gives one score, 128×128 gives 5×5.

    A smaller map gets fewer strides: of the four blocks those without one are left out, save that
    two always stay for the attention (3×3 with stride 1 where need be). The minimum is 4×4.

    By default the critic is conditioned on the image, as in the paper and the authors' CVPR 2019
    branch: resized to the map (bilinear, align_corners=True as theirs) and concatenated. Their
    later code is unconditional and reads raw logits: ``image_channels=0``, with
    ``AdversarialLoss(activation=None)``. It also begins with a BatchNorm (``input_norm='bn'``); the
    default has none, for BatchNorm couples the samples of a batch, and the gradient penalty is one
    of each sample alone.

    Args:
        in_channels: Channels of the map (classes, for score maps).
        image_channels: Channels of the image; 0 for an unconditional critic.
        size: Height and width of the map; decides the number of strides. Larger maps also pass.
        channels: Width of each block, multiples of 8.
        input_norm: 'none' or 'bn'.

    Raises:
        ValueError: a map below 4×4, a missing or needless image, an unknown option.

    Examples:
        >>> critic = HolisticCritic(in_channels=19, size=(64, 128))
        >>> critic(torch.zeros(2, 19, 64, 128), torch.zeros(2, 3, 512, 1024)).shape
        torch.Size([2, 1, 1, 5])
    """

    def __init__(
        self,
        in_channels: int,
        image_channels: int = 3,
        size: Sequence[int] = (64, 64),
        channels: Sequence[int] = (64, 128, 256, 512),
        input_norm: str = 'none',
    ) -> None:
        super().__init__()
        check_choice('input_norm', input_norm, ('none', 'bn'))
        if (
            isinstance(channels, int)
            or len(channels) < 2
            or any(width < 8 or width % 8 for width in channels)
        ):
            raise ValueError(
                'channels must be at least two multiples of 8 (the attention has an eighth), got '
                f'{channels!r}'
            )
        if len(size) != 2 or min(size) < 4:
            raise ValueError(
                'HolisticCritic needs maps (H, W) of at least 4×4 (its last convolution), got '
                f'size={tuple(size)}; mend: read logits of a finer stride, or another critic'
            )
        strides = min(len(channels), (min(size) // 4).bit_length() - 1)
        self.image_channels, self.minimum = image_channels, 4 * 2**strides
        self.input_norm = (
            nn.BatchNorm2d(in_channels + image_channels) if input_norm == 'bn' else nn.Identity()
        )
        widths = [in_channels + image_channels, *channels[: max(2, strides)]]
        layers: list[nn.Module] = []
        for i, (fan_in, width) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            kernel, stride = (4, 2) if i < strides else (3, 1)
            layers += [
                spectral_norm(nn.Conv2d(fan_in, width, kernel, stride, 1)),
                nn.LeakyReLU(0.1),
            ]
            if i >= len(widths) - 3:
                layers.append(SelfAttention2d(width))
        self.blocks = nn.Sequential(*layers)
        self.score = nn.Conv2d(widths[-1], 1, 4)

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """Return scores (N, 1, h, w) of maps (N, C, H, W), given images (N, image_channels, …)."""
        if x.dim() != 4 or min(x.shape[2:]) < self.minimum:
            raise ValueError(
                'this HolisticCritic takes maps (N, C, H, W) of at least '
                f'{self.minimum}×{self.minimum}, got {tuple(x.shape)}; mend: build it with '
                'size=(height, width) of the map'
            )
        if image is None and self.image_channels:
            raise ValueError(
                'this critic is conditioned on the image but got none; mend: '
                "reads=dict(image='batch.inputs') in the objective, or image_channels=0 in the "
                'critic'
            )
        if image is not None:
            if not self.image_channels:
                raise ValueError(
                    'this critic is unconditional (image_channels=0) but got an image; mend: drop '
                    'reads=dict(image=...), or image_channels=3'
                )
            image = F.interpolate(
                image.to(x.dtype), x.shape[2:], mode='bilinear', align_corners=True
            )
            x = torch.cat([image, x], 1)
        return self.score(self.blocks(self.input_norm(x)))
