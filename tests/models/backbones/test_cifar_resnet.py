"""CIFARResNet: published sizes, a plain rewriting of its equations, its initialisation,
messages.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.models import CIFARResNet

RESNET8X4 = dict(base_channels=64, stem_channels=32)


def parameters(net: nn.Module, channels: int, classes: int) -> int:
    """Return the number of parameters with a linear classifier on top."""
    return sum(p.numel() for p in net.parameters()) + (channels + 1) * classes


@pytest.mark.parametrize(
    ('depth', 'options', 'published'),
    [
        (20, {}, 278_324),
        (32, {}, 472_756),
        (56, {}, 861_620),
        (110, {}, 1_736_564),
        (8, RESNET8X4, 1_233_540),
        (32, RESNET8X4, 7_433_860),
    ],
)
def test_published_sizes_with_100_classes(depth: int, options: dict, published: int) -> None:
    """As the benchmark of contrastive representation distillation counts them."""
    net = CIFARResNet(depth, **options)
    assert parameters(net, 4 * options.get('base_channels', 16), 100) == published


def test_option_a_would_have_2752_parameters_fewer() -> None:
    """He et al. count 0.27 M at ResNet-20 and 10 classes: 269,722 without the 1×1 shortcuts and
    their norms.
    """
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert shortcuts == 2752
    assert parameters(CIFARResNet(20), 64, 10) - shortcuts == 269_722


def test_resnet_164_has_1_7_million_parameters() -> None:
    """As He et al. (Identity Mappings) print; stages of 64, 128 and 256 channels."""
    net = CIFARResNet(164, bottleneck=True)
    assert parameters(net, 256, 10) == 1_704_154
    assert [len(stage) for stage in (net.layer1, net.layer2, net.layer3)] == [18, 18, 18]


def plain(net: CIFARResNet, x: Tensor) -> list[Tensor]:
    """Return the three maps by a loop over the state dict: conv, norm, ReLU; the convs of a block;
    add, ReLU.
    """
    state = net.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = (state[f'{name}.running_{kind}'].view(1, -1, 1, 1) for kind in ('mean', 'var'))
        weight, bias = (state[f'{name}.{kind}'].view(1, -1, 1, 1) for kind in ('weight', 'bias'))
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = norm(F.conv2d(x, state['conv1.weight'], padding=1), 'bn1').clamp(min=0)
    maps = []
    for stage in (1, 2, 3):
        for block in range((sum(key.endswith('conv1.weight') for key in state) - 1) // 3):
            at, stride = f'layer{stage}.{block}', 2 if stage > 1 and block == 0 else 1
            if f'{at}.conv3.weight' in state:  # the 3×3 convolution of a bottleneck has the stride
                y = norm(F.conv2d(x, state[f'{at}.conv1.weight']), f'{at}.bn1').clamp(min=0)
                y = norm(
                    F.conv2d(y, state[f'{at}.conv2.weight'], stride=stride, padding=1), f'{at}.bn2'
                ).clamp(min=0)
                y = norm(F.conv2d(y, state[f'{at}.conv3.weight']), f'{at}.bn3')
            else:
                y = norm(
                    F.conv2d(x, state[f'{at}.conv1.weight'], stride=stride, padding=1), f'{at}.bn1'
                ).clamp(min=0)
                y = norm(F.conv2d(y, state[f'{at}.conv2.weight'], padding=1), f'{at}.bn2')
            if f'{at}.downsample.0.weight' in state:
                x = norm(
                    F.conv2d(x, state[f'{at}.downsample.0.weight'], stride=stride),
                    f'{at}.downsample.1',
                )
            x = (x + y).clamp(min=0)
        maps.append(x)
    return maps


@pytest.mark.parametrize(
    ('depth', 'options'),
    [
        (14, {}),
        (8, dict(base_channels=8, stem_channels=4)),
        (20, dict(base_channels=4, bottleneck=True)),
    ],
)
def test_equal_to_the_plain_equations(depth: int, options: dict) -> None:
    """In double precision, with norms that are not the identity."""
    net = CIFARResNet(depth, **options).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    net.eval()
    with torch.no_grad():
        for actual, expected in zip(net(images), plain(net, images), strict=True):
            torch.testing.assert_close(actual, expected)


def test_out_indices_and_initialisation() -> None:
    """Kaiming: variance 2 / fan-out of every convolution; out_indices choose among the maps."""
    net = CIFARResNet(8, base_channels=64, out_indices=(2,)).eval()
    net.init_weights()
    conv = net.layer3[0].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert all(m.weight.min() == 1 for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    images = torch.randn(1, 3, 8, 8)
    (last,) = net(images)
    net.out_indices = (0, 1, 2)
    assert torch.equal(last, net(images)[2])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(depth=18), r'depth must suit basic blocks: 6n \+ 2 .*got 18'),
        (dict(depth=2), 'depth must be .*8.*got 2'),
        (dict(depth=20.0, bottleneck=True), 'depth must be .*11.*got 20.0'),
        (dict(depth=100, bottleneck=True), r'depth must suit bottlenecks: 9n \+ 2 .*164.*got 100'),
        (dict(depth=20.0), 'depth must be'),
        (dict(base_channels=0), 'base_channels must be .*got 0'),
        (dict(stem_channels=0), 'stem_channels must be .*got 0'),
        (dict(out_indices=(3,)), r'out_indices must be one of \(0, 1, 2\), got 3'),
    ],
)
def test_mistakes(options: dict, message: str) -> None:
    """Each names the argument, what was got and what is allowed."""
    with pytest.raises(ValueError, match=message):
        CIFARResNet(**options)
