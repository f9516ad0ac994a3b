"""KSANC's critic: are these the teacher's logits or the student's, and of which class?"""

from collections.abc import Sequence

from torch import Tensor, nn

from mmkd.registry import MODELS
from mmkd.utils.checks import check_count


@MODELS.register_module()
class CategoryCritic(nn.Module):
    """Three fully connected layers over logits; over maps the same layers at every position.

    Paper: Shu et al., Knowledge Squeezed Adversarial Network Compression (KSANC), arXiv 1904.05100,
    the figure: BN → FC → BN, ReLU → FC → BN, ReLU → FC → [1 teacher/student unit, C category
    units]. The widths are not printed.

    ``joint`` asks AdversarialLoss to show student and teacher in one batch, in the student's step
    as in the critic's own: BatchNorm over each side alone would take away the very mean and scale
    that tell them apart. Positions under a mask are shown as 0 and are part of those statistics.
    ``pointwise`` lets ``AdversarialLoss(positions=…)`` show it a sample of places.

    Args:
        in_channels: Channels of the logits.
        num_classes: Category units C: one for each channel (None), or 0 for a critic without
            labels.
        channels: Widths of the two hidden layers.

    Raises:
        ValueError: logits of other channels, an image, widths that do not fit.

    Examples:
        >>> import torch
        >>> critic = CategoryCritic(10)
        >>> critic(torch.zeros(4, 10)).shape, critic(torch.zeros(4, 10, 2, 3)).shape
        (torch.Size([4, 11]), torch.Size([4, 11, 2, 3]))
    """

    joint = True
    pointwise = True

    def __init__(
        self, in_channels: int, num_classes: int | None = None, channels: Sequence[int] = (128, 256)
    ) -> None:
        super().__init__()
        num_classes = in_channels if num_classes is None else num_classes
        check_count('in_channels', in_channels, 1)
        check_count('num_classes', num_classes, 0)
        if num_classes not in (0, in_channels):
            raise ValueError(
                f'a critic of logits of {in_channels} classes names as many, or none, got '
                f'num_classes={num_classes}; mend: leave num_classes out, or 0 for a critic '
                'without categories'
            )
        if num_classes == 1:  # of a single channel
            raise ValueError(
                'one category is always right, so it would contribute nothing, got num_classes=1; '
                'mend: num_classes=0 for a critic without categories'
            )
        if len(channels) != 2:
            raise ValueError(
                f'channels must be the widths of the two hidden layers, got {tuple(channels)}'
            )
        self.in_channels, self.num_classes = in_channels, num_classes
        first, second = channels
        self.layers = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, first, 1),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 1),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
            nn.Conv2d(second, 1 + num_classes, 1),
        )

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """Return scores (N, 1 + C, …) of logits (N, in_channels) or (N, in_channels, H, W)."""
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f'this CategoryCritic is one of {self.in_channels} channels, got logits '
                f'{tuple(x.shape)}; mend: in_channels={x.shape[1]}, or none at all: the Distiller '
                'finds them'
            )
        if image is not None:
            raise ValueError(
                'CategoryCritic reads logits alone but got an image; mend: drop '
                'reads=dict(image=...)'
            )
        if x.dim() == 4:
            return self.layers(x)
        # One long map: as N maps of a single place the layers take several times as long on a CPU.
        return self.layers(x.t()[None, :, :, None])[0, :, :, 0].t()
