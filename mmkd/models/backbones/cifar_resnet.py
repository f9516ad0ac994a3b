"""ResNet for 32×32 images: three stages of blocks behind a 3×3 stem."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmseg.models.backbones.resnet import BasicBlock, Bottleneck
from mmseg.models.utils import ResLayer
from torch import Tensor, nn

from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_count

KAIMING = [dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', val=1, layer='BatchNorm2d')]


@MODELS.register_module()
class CIFARResNet(BaseModule):
    """ResNet-8 … 110 for CIFAR, as the distillation literature uses it.

    He et al., Deep Residual Learning (CVPR 2016), section 4.2. Where a block changes width or
    stride its shortcut is a 1×1 convolution with BatchNorm (option B), as in RepDistiller's
    benchmark; the paper's own CIFAR nets pad with zeros (option A), which has 2,752 parameters
    fewer at ResNet-20. ``resnet8x4`` is ``depth=8, base_channels=64, stem_channels=32``,
    ``resnet32x4`` the same with ``depth=32``.

    With ``bottleneck=True`` it is ResNet-164 and its kin: blocks of 1×1, 3×3 and 1×1 convolutions,
    four times as wide at their ends, in the usual order of convolution, BatchNorm and ReLU (He et
    al., Identity Mappings, ECCV 2016, where ResNet-164 comes from, put BatchNorm and ReLU first).

    Shapes: (N, 3, H, W) → B, 2B and 4B channels at strides 1, 2, 4 for B = ``base_channels``, each
    after its ReLU; four times as many with bottlenecks.

    Args:
        depth: 6n + 2 for n blocks a stage: 8, 14, 20, 32, 56, 110, …; 9n + 2 with bottlenecks: 11,
            20, 29, …, 164, …
        base_channels: Width of the first stage.
        stem_channels: Width of the stem; None is ``base_channels``.
        out_indices: Which of the three maps to return.
        bottleneck: Bottlenecks in place of basic blocks.
        init_cfg: By default Kaiming's initialisation.

    Raises:
        ValueError: A depth or index that does not exist.

    >>> import torch
    >>> [tuple(map.shape) for map in CIFARResNet(depth=8)(torch.zeros(1, 3, 32, 32))]
    [(1, 16, 32, 32), (1, 32, 16, 16), (1, 64, 8, 8)]
    """

    def __init__(
        self,
        depth: int = 20,
        base_channels: int = 16,
        stem_channels: int | None = None,
        out_indices: Sequence[int] = (0, 1, 2),
        bottleneck: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        layers = 9 if bottleneck else 6  # of one block in each of the three stages
        check_count('depth', depth, layers + 2)
        if depth % layers != 2:
            series = 'basic blocks: 6n + 2 (8, 14, 20, 32, 56, 110, …)'
            if bottleneck:
                series = 'bottlenecks: 9n + 2 (11, 20, 29, …, 164, …)'
            raise ValueError(f'depth must suit {series}, got {depth}')
        check_count('base_channels', base_channels, 1)
        check_count('stem_channels', base_channels if stem_channels is None else stem_channels, 1)
        for index in out_indices:
            check_choice('out_indices', index, (0, 1, 2))
        super().__init__(init_cfg or KAIMING)
        self.out_indices = tuple(out_indices)
        channels = base_channels if stem_channels is None else stem_channels
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        block, blocks = Bottleneck if bottleneck else BasicBlock, (depth - 2) // layers
        width, wide = base_channels, base_channels * block.expansion
        self.layer1 = ResLayer(block, channels, width, blocks)
        self.layer2 = ResLayer(block, wide, 2 * width, blocks, stride=2)
        self.layer3 = ResLayer(block, 2 * wide, 4 * width, blocks, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, finest first."""
        x = self.relu(self.bn1(self.conv1(x)))
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
            maps.append(x)
        return tuple(maps[index] for index in self.out_indices)
