"""ESPNet: the encoder (ESPNet-C) as a backbone, and the names of the published weights."""

from collections.abc import Mapping

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice

DILATIONS = (1, 2, 4, 8, 16)


class BNAct(nn.Module):
    """BatchNorm (eps 1e-3) and one PReLU slope a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate."""
        return self.act(self.bn(x))


class ConvBNAct(BNAct):
    """A 3×3 convolution in front of `BNAct`."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(outputs)
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise and activate."""
        return super().forward(self.conv(x))


class Bare(nn.Module):
    """A convolution without bias under the name ``conv``, as the published weights have it."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return self.conv(x)


class ESPModule(nn.Module):
    """Efficient spatial pyramid: reduce, five dilated 3×3 convolutions, fuse, concatenate.

    The maps of dilation 2, 4, 8, 16 are summed up one after the other before they are concatenated,
    which removes the gridding of large dilations; the map of dilation 1 takes the channels that a
    division by five leaves over.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: 2 reduces by a 3×3 convolution of stride 2, 1 by a 1×1 convolution.
        residual: Add the input (needs ``inputs == outputs`` and stride 1).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        branch = outputs // 5
        self.c1 = Bare(inputs, branch, 3 if stride == 2 else 1, stride)
        for dilation in DILATIONS:
            channels = outputs - 4 * branch if dilation == 1 else branch
            setattr(self, f'd{dilation}', Bare(branch, channels, 3, 1, dilation))
        self.residual = residual
        if stride == 2:  # the published files nest the norm of the other kind one level deeper
            self.bn: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3)
            self.act: nn.Module = nn.PReLU(outputs)
        else:
            self.bn, self.act = BNAct(outputs), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        reduced = self.c1(x)
        first, *rest = (getattr(self, f'd{dilation}')(reduced) for dilation in DILATIONS)
        fused = [first, rest[0]]
        for branch in rest[1:]:
            fused.append(fused[-1] + branch)
        y = torch.cat(fused, 1)
        return self.act(self.bn(x + y if self.residual else y))


@MODELS.register_module()
class ESPNet(BaseModule):
    """The encoder of ESPNet: three maps at stride 2, 4 and 8 with 19, 131 and 256 channels.

    Mehta et al., ESPNet: Efficient Spatial Pyramid of Dilated Convolutions, ECCV 2018. With
    `ESPHead` this is ESPNet; with a 1×1 classifier on the last map (``FCNHead(num_convs=0,
    concat_input=False, in_index=2, in_channels=256, channels=256, dropout_ratio=0)``) it is
    ESPNet-C. The down-sampled image is concatenated to the first two maps.

    Args:
        p: ESP modules at stride 4.
        q: ESP modules at stride 8.
        first_map: ``'joined'`` (19 channels, with the image, as in the published CamVid weights) or
            ``'plain'`` (16 channels, before it is joined, as in the published Cityscapes weights).
        init_cfg: Initialisation of mmengine; by default torch's own.

    Raises:
        ValueError: an unknown ``first_map``; from ``forward``, an image whose sides are no
            multiples of 8.

    >>> [tuple(map.shape) for map in ESPNet(p=1, q=1)(torch.zeros(2, 3, 16, 32))]
    [(2, 19, 8, 16), (2, 131, 4, 8), (2, 256, 2, 4)]
    """

    def __init__(
        self, p: int = 2, q: int = 8, first_map: str = 'joined', init_cfg: dict | None = None
    ) -> None:
        check_choice('first_map', first_map, ('joined', 'plain'))
        super().__init__(init_cfg)
        self.joined = first_map == 'joined'
        self.level1 = ConvBNAct(3, 16, 2)
        self.b1 = BNAct(16 + 3)
        self.level2_0 = ESPModule(16 + 3, 64, 2)
        self.level2 = nn.Sequential(*(ESPModule(64, 64, residual=True) for _ in range(p)))
        self.b2 = BNAct(128 + 3)
        self.level3_0 = ESPModule(128 + 3, 128, 2)
        self.level3 = nn.Sequential(*(ESPModule(128, 128, residual=True) for _ in range(q)))
        self.b3 = BNAct(256)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps at stride 2, 4 and 8."""
        if x.shape[-2] % 8 or x.shape[-1] % 8:
            raise ValueError(
                f'ESPNet needs image sides that are multiples of 8, got {tuple(x.shape[-2:])}: set '
                'size_divisor=8 (or test_cfg=dict(size_divisor=8)) in the data_preprocessor'
            )
        half = nn.functional.avg_pool2d(x, 3, 2, 1)
        quarter = nn.functional.avg_pool2d(half, 3, 2, 1)
        plain = self.level1(x)
        one = self.b1(torch.cat([plain, half], 1))
        first = self.level2_0(one)
        two = self.b2(torch.cat([self.level2(first), first, quarter], 1))
        first = self.level3_0(two)
        three = self.b3(torch.cat([first, self.level3(first)], 1))
        return one if self.joined else plain, two, three


def espnet_state_dict(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the published ESPNet or ESPNet-C weights to those of an ``EncoderDecoder``.

    Its head is ``ESPHead`` or ``FCNHead``.

    ============================== ======================================================
    published                      here
    ============================== ======================================================
    ``encoder.classifier.conv.*``  ``decode_head.level3.conv.*`` (the classifier at stride 8)
    ``encoder.*``                  ``backbone.*``
    ``classifier.*``               ``decode_head.conv_seg.*``
    anything else                  ``decode_head.*``
    ============================== ======================================================

    ESPNet-C has no prefix ``encoder.``; its ``classifier.conv.*`` becomes
    ``decode_head.conv_seg.*``, without a bias.

    >>> published = {'encoder.b1.act.weight': torch.ones(19), 'br.bias': torch.ones(12)}
    >>> list(espnet_state_dict(published))
    ['backbone.b1.act.weight', 'decode_head.br.bias']
    """
    rules: tuple[tuple[str, str], ...]
    if any(key.startswith('encoder.') for key in published):
        rules = (
            ('encoder.classifier.', 'decode_head.level3.'),
            ('encoder.', 'backbone.'),
            ('classifier.', 'decode_head.conv_seg.'),
            ('', 'decode_head.'),
        )
    else:
        rules = (('classifier.conv.', 'decode_head.conv_seg.'), ('', 'backbone.'))
    renamed = {}
    for key, value in published.items():
        old, new = next(rule for rule in rules if key.startswith(rule[0]))
        renamed[new + key.removeprefix(old)] = value
    return renamed
