"""Connectors: what stands between a tap and a loss where shapes differ."""

from collections.abc import Iterator

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd.connectors.batch_norm import BatchNorm
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count
from mmkd.utils.resize import resize_map

LAYERS = ('conv', 'bn', 'relu')


@MODELS.register_module()
class Connector(BaseModule):
    """Bring a feature map to other channels (convolutions) and another size (a resize).

    What papers train between student and teacher is a ``kind``, its layers in order:

    ============================  ==================================================================
    ``kind``                      where
    ============================  ==================================================================
    'conv'                        everywhere; without ``bias`` FitNet and CWD in the code of CIRKD
    'conv-bn'                     AB, OFD
    'conv-bn-relu'                FitNet in RepDistiller, SRRL
    'conv-relu-conv'              detectors of ultralytics
    'conv-bn-relu-conv'           CIRKD's memory, without ``bias``
    'conv-relu-conv-relu-conv'    VID, without ``bias``
    ============================  ==================================================================

    The first convolution changes the channels. Of tokens and vectors a convolution is a linear
    layer. Statistics of a normalisation are those of all ranks; under a mask they are of all
    places, as everywhere. A resize is that of :func:`mmkd.utils.resize.resize_map`: bilinear, and
    where a map shrinks by more than 2 the means of what is covered.

    >>> import torch
    >>> Connector(4, 8, resize=True)(torch.zeros(1, 4, 2, 2), size=(4, 4)).shape
    torch.Size([1, 8, 4, 4])
    >>> [type(layer).__name__ for layer in Connector(4, 8, kind='conv-bn-relu').conv]
    ['Conv2d', 'BatchNorm', 'ReLU']

    Args:
        in_channels: Channels of the tapped tensor.
        out_channels: Channels that the loss needs; None leaves them as they are.
        resize: Whether to resize to the ``size`` given to ``forward``.
        tokens: Whether the tensor is one of tokens (N, L, C), in place of (N, C, H, W) or (N, C).
        init_cfg: mmengine's initialisation.
        kind: Its layers: 'conv', 'bn' and 'relu', joined by '-'.
        kernel_size: Of the convolutions, odd, so that they keep the size of a map.
        bias: Whether convolutions add one; None: all but those before a normalisation.

    Raises:
        ValueError: No such kind, or a kernel that would change the size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        resize: bool = False,
        tokens: bool = False,
        init_cfg: dict | None = None,
        kind: str = 'conv',
        kernel_size: int = 1,
        bias: bool | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_kind(kind, kernel_size)
        self.resize, self.tokens = resize, tokens
        self.conv: nn.Module = nn.Identity()
        if out_channels:
            layers = [*_layers(kind.split('-'), in_channels, out_channels, kernel_size, bias)]
            self.conv = layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def forward(self, x: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
        """Return ``x`` with the channels, and the size if resizing, that the loss needs."""
        if self.tokens:
            return self.conv(x.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        vector = x.dim() == 2 and not isinstance(self.conv, nn.Identity)
        x = self.conv(x[..., None, None]).flatten(1) if vector else self.conv(x)
        if self.resize and size is not None and tuple(x.shape[2:]) != tuple(size):
            x = resize_map(x, size)
        return x

    def extra_repr(self) -> str:
        """Say whether it resizes."""
        return f'resize={self.resize}, tokens={self.tokens}'


def check_kind(kind: str, kernel_size: int = 1) -> None:
    """Refuse what is no kind of a connector.

    Raises:
        ValueError: Names what is wrong.

    >>> check_kind('conv-bn-relu', 3)
    """
    names = kind.split('-') if isinstance(kind, str) else []
    if names[:1] != ['conv'] or not set(names) <= set(LAYERS):
        raise ValueError(
            f"kind must be layers of {LAYERS} joined by '-', a convolution first, got {kind!r}. "
            "Mend: 'conv', 'conv-bn', 'conv-bn-relu' or 'conv-relu-conv'"
        )
    check_count('kernel_size', kernel_size, 1)
    if kernel_size % 2 == 0:
        raise ValueError(
            f'kernel_size must be odd, got {kernel_size}: an even one changes the size of a map. '
            f'Mend: {kernel_size + 1}'
        )


def _layers(
    names: list[str], channels: int, out_channels: int, kernel_size: int, bias: bool | None
) -> Iterator[nn.Module]:
    """Yield the layers of a kind; the first convolution changes the channels."""
    for name, after in zip(names, [*names[1:], ''], strict=True):
        if name == 'conv':
            added = after != 'bn' if bias is None else bias
            padding = kernel_size // 2
            yield nn.Conv2d(channels, out_channels, kernel_size, padding=padding, bias=added)
            channels = out_channels
        else:
            yield BatchNorm(channels) if name == 'bn' else nn.ReLU()
