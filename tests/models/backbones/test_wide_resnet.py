"""WideResNet: published sizes, a plain rewriting of its equations, dropout, taps, messages."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.models import WideResNet


@pytest.mark.parametrize(
    ('depth', 'widen_factor', 'classes', 'published'),
    [
        (16, 2, 100, 703_284),
        (40, 2, 100, 2_255_156),
        (40, 1, 100, 569_780),
        (16, 1, 10, 175_066),
        (16, 8, 10, 10_961_370),
        (28, 10, 10, 36_479_194),
    ],
)
def test_published_sizes(depth: int, widen_factor: int, classes: int, published: int) -> None:
    """0.7, 2.2, 0.57, 0.17, 11.0 and 36.5 M in the papers' tables."""
    with torch.device('meta'):
        net = WideResNet(depth, widen_factor)
    assert sum(p.numel() for p in net.parameters()) + (64 * widen_factor + 1) * classes == published


def plain(net: WideResNet, x: Tensor) -> list[Tensor]:
    """Return the three maps by a loop over the state dict: the shortcut of a block leaves after its
    first ReLU.
    """
    state = net.state_dict()

    def active(x: Tensor, name: str) -> Tensor:
        mean, var = (state[f'{name}.running_{kind}'].view(1, -1, 1, 1) for kind in ('mean', 'var'))
        weight, bias = (state[f'{name}.{kind}'].view(1, -1, 1, 1) for kind in ('weight', 'bias'))
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp(min=0)

    x = F.conv2d(x, state['conv1.weight'], padding=1)
    maps = []
    for stage in (1, 2, 3):
        for block in range((sum(key.endswith('conv1.weight') for key in state) - 1) // 3):
            at, stride = f'layer{stage}.{block}', 2 if stage > 1 and block == 0 else 1
            y = active(x, f'{at}.bn1')
            if f'{at}.shortcut.weight' in state:
                x = F.conv2d(y, state[f'{at}.shortcut.weight'], stride=stride)
            y = active(
                F.conv2d(y, state[f'{at}.conv1.weight'], stride=stride, padding=1), f'{at}.bn2'
            )
            x = x + F.conv2d(y, state[f'{at}.conv2.weight'], padding=1)
        maps.append(x)
    return maps[:2] + [active(x, 'bn')]


@pytest.mark.parametrize(('depth', 'widen_factor'), [(16, 1), (10, 2)])
def test_equal_to_the_plain_equations(depth: int, widen_factor: int) -> None:
    """In double precision, with norms that are not the identity; the last map is what `relu`
    gives.
    """
    net = WideResNet(depth, widen_factor, dropout=0.3).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    net.eval()
    tapped = []
    net.relu.register_forward_hook(lambda module, inputs, output: tapped.append(output))
    with torch.no_grad():
        maps = net(images)
        for actual, expected in zip(maps, plain(net, images), strict=True):
            torch.testing.assert_close(actual, expected)
    assert len(tapped) == 1
    assert torch.equal(tapped[0], maps[2])


def test_widening_by_one_keeps_the_first_block_without_a_shortcut() -> None:
    """At k = 1 the first stage has the stem's width: nothing changes, so nothing is projected."""
    assert WideResNet(10, 1).layer1[0].shortcut is None
    assert WideResNet(10, 2).layer1[0].shortcut.weight.shape == (32, 16, 1, 1)


def test_dropout_acts_in_training_alone() -> None:
    """Between the convolutions: with the norms in eval mode two training passes differ, two others
    do not.
    """
    net = WideResNet(10, 1, dropout=0.5)
    net.init_weights()
    images = torch.randn(1, 3, 8, 8)
    net.eval()
    assert torch.equal(net(images)[2], net(images)[2])
    for module in net.modules():
        module.training = isinstance(module, nn.Dropout)
    assert not torch.equal(net(images)[2], net(images)[2])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(depth=18), r'depth must be 6n \+ 4 .*got 18'),
        (dict(depth=4), 'depth must be .*10.*got 4'),
        (dict(widen_factor=0), 'widen_factor must be .*got 0'),
        (dict(dropout=1.0), 'dropout must be .*got 1.0'),
        (dict(out_indices=(0, 4)), r'out_indices must be one of \(0, 1, 2\), got 4'),
    ],
)
def test_mistakes(options: dict, message: str) -> None:
    """Each names the argument, what was got and what is allowed."""
    with pytest.raises(ValueError, match=message):
        WideResNet(**options)
