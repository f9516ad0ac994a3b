"""Wide residual networks for 32×32 images: pre-activation blocks, three wide stages."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd.models.backbones.cifar_resnet import KAIMING
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_count, check_fraction


class PreActBlock(nn.Module):
    """BN, ReLU, 3×3, BN, ReLU, dropout, 3×3.

    A 1×1 shortcut starts after the first ReLU where width or stride change.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        changes = inputs != outputs or stride != 1
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = F.relu(self.bn1(x), inplace=True)
        kept = x if self.shortcut is None else self.shortcut(y)
        y = F.relu(self.bn2(self.conv1(y)), inplace=True)
        return kept + self.conv2(self.dropout(y))


def _group(inputs: int, outputs: int, stride: int, blocks: int, dropout: float) -> nn.Sequential:
    """Return blocks of one width; the first one widens and strides."""
    first = PreActBlock(inputs, outputs, stride, dropout)
    others = (PreActBlock(outputs, outputs, 1, dropout) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


@MODELS.register_module()
class WideResNet(BaseModule):
    """WRN-d-k: pre-activation residual network of depth d, k times as wide as ResNet.

    Zagoruyko and Komodakis, Wide Residual Networks (BMVC 2016), table 1: stages of 16k, 32k and 64k
    channels. The maps of the first two stages are the residual sums as the next block reads them
    (before its BN); the last one is what the classifier reads, after the final BN and ReLU: tap it
    as ``backbone.relu``.

    Shapes: (N, 3, H, W) → 16k, 32k and 64k channels at strides 1, 2, 4.

    Args:
        depth: 6n + 4 for n blocks a stage: 10, 16, 22, 28, 40, …
        widen_factor: k.
        dropout: Probability of dropout between the two convolutions of a block.
        out_indices: Which of the three maps to return.
        init_cfg: By default Kaiming's initialisation.

    Raises:
        ValueError: A depth, probability or index that does not exist.

    >>> import torch
    >>> maps = WideResNet(depth=16, widen_factor=2)(torch.zeros(1, 3, 32, 32))
    >>> [tuple(map.shape) for map in maps]
    [(1, 32, 32, 32), (1, 64, 16, 16), (1, 128, 8, 8)]
    """

    def __init__(
        self,
        depth: int = 40,
        widen_factor: int = 2,
        dropout: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2),
        init_cfg: dict | list | None = None,
    ) -> None:
        check_count('depth', depth, 10)
        if depth % 6 != 4:
            raise ValueError(f'depth must be 6n + 4 (10, 16, 22, 28, 40, …), got {depth}')
        check_count('widen_factor', widen_factor, 1)
        check_fraction('dropout', dropout)
        for index in out_indices:
            check_choice('out_indices', index, (0, 1, 2))
        super().__init__(init_cfg or KAIMING)
        self.out_indices = tuple(out_indices)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        widths = (16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor)
        blocks = (depth - 4) // 6
        self.layer1 = _group(widths[0], widths[1], 1, blocks, dropout)
        self.layer2 = _group(widths[1], widths[2], 2, blocks, dropout)
        self.layer3 = _group(widths[2], widths[3], 2, blocks, dropout)
        self.bn = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, finest first."""
        fine = self.layer1(self.conv1(x))
        middle = self.layer2(fine)
        maps = (fine, middle, self.relu(self.bn(self.layer3(middle))))
        return tuple(maps[index] for index in self.out_indices)
