"""AttentionEstimator by value."""

import math

import pytest
import torch
from references.ksanc import squeeze
from torch import Tensor, nn

from mmkd.losses import AttentionEstimator

VARIANTS = [(m, p) for m in ('fused', 'feature') for p in ('sum', 'avg')]


def estimator(
    in_channels: int | None = None, multiply: str = 'fused', pooling: str = 'sum'
) -> AttentionEstimator:
    return AttentionEstimator(4, 3, in_channels, multiply, pooling).double()


def inputs(channels: int = 4, n: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(n, channels, 2, 3, dtype=torch.float64), torch.randn(
        n, 3, dtype=torch.float64
    )


def weights(layer: nn.Linear | None) -> tuple[Tensor, Tensor] | None:
    return None if layer is None else (layer.weight.detach(), layer.bias.detach())


@pytest.mark.parametrize(('multiply', 'pooling'), VARIANTS)
@pytest.mark.parametrize('in_channels', [None, 2])
def test_equals_the_equations_place_by_place(
    in_channels: int | None, multiply: str, pooling: str
) -> None:
    """Also that by the figure the descriptor has no effect: the loop adds one of its own before the
    softmax.
    """
    module = estimator(in_channels, multiply, pooling)
    x, g = inputs(in_channels or 4)
    descriptor = weights(module.descriptor) or (torch.randn(4, 3), torch.randn(4))
    got = module(x, g)
    for i in range(2):
        expected = squeeze(
            x[i],
            g[i],
            module.score.weight.detach(),
            descriptor,
            weights(module.transform),
            multiply,
            pooling,
        )
        assert got[i].tolist() == pytest.approx(expected, rel=1e-10)


def test_hand_value_of_every_variant() -> None:
    """L = (0, ln 3), w = 1: M = (1/4, 3/4); g adds 2 · 3 + 1/2 to both places."""
    x, g, attended = torch.tensor([[[[1.0, 3.0]]]]).log(), torch.tensor([[3.0]]), 0.75 * math.log(3)
    expected = dict(
        zip(VARIANTS, (attended + 6.5, (attended + 6.5) / 2, attended, attended / 2), strict=True)
    )
    for (multiply, pooling), value in expected.items():
        module = AttentionEstimator(1, 1, None, multiply, pooling)
        for p, v in zip(module.parameters(), (1.0, 2.0, 0.5), strict=False):
            p.data.fill_(v)
        assert module(x, g).item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize('in_channels', [None, 2])
def test_without_a_score_the_attention_is_uniform(in_channels: int | None) -> None:
    x, g = inputs(in_channels or 4)
    for pooling, size in (('sum', 1), ('avg', 6)):
        module = estimator(in_channels, pooling=pooling)
        nn.init.zeros_(module.score.weight)
        mean = x.mean((2, 3)) if module.transform is None else module.transform(x.mean((2, 3)))
        torch.testing.assert_close(module(x, g), (mean + module.descriptor(g)) / size)


@pytest.mark.parametrize('multiply', ['fused', 'feature'])
def test_tiling_and_shuffled_places_change_a_sum_in_nothing_and_shrink_an_average(
    multiply: str,
) -> None:
    x, g = inputs()
    tiled, shuffled = x.repeat(1, 1, 2, 3), x.flatten(2)[..., torch.randperm(6)].view_as(x)
    module = estimator(multiply=multiply)
    expected = module(x, g)
    torch.testing.assert_close(module(tiled, g), expected)
    torch.testing.assert_close(module(shuffled, g), expected)
    module.pooling = 'avg'
    torch.testing.assert_close(module(x, g), expected / 6)
    torch.testing.assert_close(module(tiled, g), expected / 36)


def test_a_sharp_score_picks_one_place() -> None:
    x, g = inputs()
    module = estimator(multiply='feature')
    module.score.weight.data.copy_(torch.tensor([[1e6, 0.0, 0.0, 0.0]]))
    best = x[:, 0].flatten(1).argmax(1)
    torch.testing.assert_close(module(x, g), x.flatten(2)[torch.arange(2), :, best])


def test_the_descriptor_moves_the_result_alike_everywhere() -> None:
    """M does not depend on g: by the equation the descriptor is added, by the figure it is
    nothing.
    """
    x, g = inputs()
    fused, feature = estimator(), estimator(multiply='feature')
    feature.load_state_dict(fused.state_dict(), strict=False)
    torch.testing.assert_close(fused(x, g) - fused.descriptor(g), feature(x, g))
    assert torch.equal(feature(x, g), feature(x, 7 * g))
    assert feature.descriptor is None


@pytest.mark.parametrize(('multiply', 'pooling'), VARIANTS)
def test_gradcheck(multiply: str, pooling: str) -> None:
    module = estimator(2, multiply, pooling)
    x, g = (v.requires_grad_() for v in inputs(2))
    assert torch.autograd.gradcheck(module, (x, g), atol=1e-7)
    for p in module.parameters():
        assert torch.autograd.grad(module(x, g).square().sum(), p)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(multiply='fuse'), "multiply must be one of .*did you mean 'fused'"),
        (dict(pooling='mean'), "pooling must be one of .*got 'mean'"),
        (dict(channels=0), 'channels must be a whole number of at least 1, got 0'),
        (dict(in_channels=0), 'in_channels must be a whole number of at least 1, got 0'),
        (
            dict(global_channels=None),
            'global_channels must be a whole number of at least 1, got None',
        ),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionEstimator(**dict(channels=4, global_channels=3) | options)
