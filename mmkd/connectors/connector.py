"""Connectors: what stands between a tap and a loss where shapes differ."""

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd.registry import MODELS


@MODELS.register_module()
class Connector(BaseModule):
    """Bring a feature map to other channels (1×1 convolution) and another size (bilinear).

    >>> import torch
    >>> Connector(4, 8, resize=True)(torch.zeros(1, 4, 2, 2), size=(4, 4)).shape
    torch.Size([1, 8, 4, 4])

    Args:
        in_channels: Channels of the tapped tensor.
        out_channels: Channels that the loss needs; None leaves them as they are.
        resize: Whether to resize to the ``size`` given to ``forward``.
        tokens: Whether the tensor is one of tokens (N, L, C), in place of (N, C, H, W) or (N, C).
        init_cfg: mmengine's initialisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        resize: bool = False,
        tokens: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.resize, self.tokens = resize, tokens
        self.conv = nn.Conv2d(in_channels, out_channels, 1) if out_channels else nn.Identity()

    def forward(self, x: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
        """Return ``x`` with the channels, and the size if resizing, that the loss needs."""
        if self.tokens:
            return self.conv(x.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        vector = x.dim() == 2 and isinstance(self.conv, nn.Conv2d)
        x = self.conv(x[..., None, None]).flatten(1) if vector else self.conv(x)
        if self.resize and size is not None and tuple(x.shape[2:]) != tuple(size):
            x = F.interpolate(x, size=size, mode='bilinear', align_corners=False)
        return x

    def extra_repr(self) -> str:
        """Say whether it resizes."""
        return f'resize={self.resize}, tokens={self.tokens}'
