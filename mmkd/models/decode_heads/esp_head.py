"""ESPHead: the light decoder of ESPNet."""

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmkd.models.backbones.espnet import Bare, BNAct, ConvBNAct, ESPModule
from mmkd.registry import MODELS


@MODELS.register_module()
class ESPHead(BaseDecodeHead):
    """The decoder of ESPNet: classify at stride 8 and 4, fuse, and learn to upsample to stride 1.

    The whole decoder works on as many channels as there are classes. Its tap ``conv_seg`` gives
    logits at stride 1 (a 2×2 transposed convolution), ``conv`` the last feature at stride 2.

    Args:
        num_classes: Classes, 5 or more (the published CamVid weights have 12, the last one void).
        in_channels: Channels of the three maps; (16, 131, 256) goes with
            ``ESPNet(first_map='plain')``.
        dropout_ratio: Dropout before the classifier; ESPNet has none.
        **kwargs: What ``BaseDecodeHead`` takes besides.

    Raises:
        ValueError: fewer than 5 classes.

    >>> maps = [torch.zeros(2, c, 16 // s, 32 // s) for c, s in ((19, 2), (131, 4), (256, 8))]
    >>> ESPHead(num_classes=11)(maps).shape
    torch.Size([2, 11, 16, 32])
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int] = (19, 131, 256),
        dropout_ratio: float = 0,
        **kwargs: Any,
    ) -> None:
        if num_classes < 5:
            raise ValueError(
                'ESPHead splits num_classes channels over five branches: it needs at least 5 '
                f"classes, got {num_classes}: take ESPNet with mmseg's FCNHead (ESPNet-C) instead"
            )
        super().__init__(
            in_channels=list(in_channels),
            in_index=[0, 1, 2],
            input_transform='multiple_select',
            channels=num_classes,
            num_classes=num_classes,
            dropout_ratio=dropout_ratio,
            **kwargs,
        )
        classes = num_classes
        self.level3 = Bare(in_channels[2], classes, 1)
        self.br = nn.BatchNorm2d(classes, eps=1e-3)
        self.up_l3 = nn.Sequential(nn.ConvTranspose2d(classes, classes, 2, 2, bias=False))
        self.level3_C = Bare(in_channels[1], classes, 1)
        self.combine_l2_l3 = nn.Sequential(BNAct(2 * classes), ESPModule(2 * classes, classes))
        self.up_l2 = nn.Sequential(
            nn.ConvTranspose2d(classes, classes, 2, 2, bias=False), BNAct(classes)
        )
        self.conv = ConvBNAct(in_channels[0] + classes, classes)
        self.conv_seg = nn.ConvTranspose2d(classes, classes, 2, 2, bias=False)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Map features at stride 2, 4 and 8 to logits at stride 1."""
        one, two, three = self._transform_inputs(inputs)
        coarse = self.up_l3(self.br(self.level3(three)))
        fused = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(two), coarse], 1)))
        return self.cls_seg(self.conv(torch.cat([fused, one], 1)))
