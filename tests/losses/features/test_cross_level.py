"""CrossLevelLoss by value: whom a level attends to, and what it learns there."""

import pytest
import torch
from references import cross_level as reference
from torch import Tensor

from mmkd.connectors import LevelPairs
from mmkd.losses import CrossLevelLoss, cross_level

OWN = ((3, 3, 6, 4), (3, 4, 3, 2), (3, 5, 2, 2))
OTHER = ((3, 2, 4, 4), (3, 6, 2, 3))


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


MAPS = [draw(*shape, seed=k) for k, shape in enumerate(OWN)]
TEACHER = [2 * draw(*shape, seed=9 + k) for k, shape in enumerate(OTHER)]
# of every level of the student, at the smaller sizes, in the teacher's channels
PROJECTED = [
    draw(3, t[1], min(s[2], t[2]), min(s[3], t[3]), seed=20 + 2 * i + j)
    for i, s in enumerate(OWN)
    for j, t in enumerate(OTHER)
]


def made(images: int = 5, softness: float = 0.3) -> CrossLevelLoss:
    torch.manual_seed(0)
    loss = CrossLevelLoss(images, softness, factor=2)
    assert loss.build(PROJECTED, TEACHER, MAPS) == 'attention of 3 levels to 2, of 5 images'
    assert loss.build(PROJECTED, TEACHER, MAPS) == ''
    return loss.double()


def layers(net: torch.nn.Module) -> list[Tensor]:
    return [*net.parameters()]


def test_it_is_the_slow_loop() -> None:
    """Of three maps and two, none of one size with another, and fewer images than it is made of."""
    loss = made()
    weights = reference.attention(
        MAPS, TEACHER, [*map(layers, loss.queries)], [*map(layers, loss.keys)], 5, 0.3
    )
    found = loss.attention(MAPS, TEACHER)
    torch.testing.assert_close(found, torch.tensor(weights, dtype=torch.float64))
    torch.testing.assert_close(found.sum(2), torch.ones(3, 3, dtype=torch.float64))
    assert found.std() > 0.01
    expected = reference.cross_level(PROJECTED, TEACHER, weights)
    assert loss(PROJECTED, TEACHER, MAPS).item() == pytest.approx(expected, rel=1e-9)
    half = CrossLevelLoss(5, 0.3, factor=2, loss_weight=0.5)
    half.queries, half.keys = loss.queries, loss.keys
    assert half(PROJECTED, TEACHER, MAPS).item() == pytest.approx(expected / 2, rel=1e-9)


def test_alike_attention_is_the_mean_over_pairs() -> None:
    """And of one level it is the mean square; of equal maps 0 with zero gradient."""
    alike = torch.full((3, 3, 2), 0.5, dtype=torch.float64)
    apart = [
        cross_level(PROJECTED[k : k + 1], TEACHER[k % 2 : k % 2 + 1], torch.ones(3, 1, 1))
        for k in range(6)
    ]
    torch.testing.assert_close(cross_level(PROJECTED, TEACHER, alike), sum(apart) / 6)
    whole = draw(3, 2, 4, 4, seed=77)
    (one,) = [cross_level([whole], TEACHER[:1], torch.ones(3, 1, 1))]
    torch.testing.assert_close(one, (whole - TEACHER[0]).square().mean())
    same = TEACHER[0].clone().requires_grad_()
    value = cross_level([same], TEACHER[:1], torch.ones(3, 1, 1))
    value.backward()
    assert value == 0
    assert (same.grad == 0).all()


def test_gradients_are_those_of_differences() -> None:
    """Of what is brought, of the maps, of queries and keys; none reaches the teacher."""
    loss = made()
    names = [name for name, _ in loss.named_parameters()]
    teacher = [x.clone().requires_grad_() for x in TEACHER]

    def value(*given: Tensor) -> Tensor:
        state = dict(zip(names, given[9:], strict=True))
        read = (list(given[:6]), teacher, list(given[6:9]))
        return torch.func.functional_call(loss, state, read)

    given = [*PROJECTED, *MAPS, *(p.detach() for p in loss.parameters())]
    given = [x.clone().requires_grad_() for x in given]
    assert torch.autograd.gradcheck(value, given, fast_mode=True)
    value(*given).backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in given[:9])
    assert all(x.grad is None for x in teacher)


def test_half_and_autocast_are_float32() -> None:
    loss = made().float()
    narrow = [[x.bfloat16() for x in maps] for maps in (PROJECTED, TEACHER, MAPS)]
    wide = [[x.float() for x in maps] for maps in narrow]
    expected = loss(*wide)
    assert loss(*narrow) == expected
    with torch.autocast('cpu', torch.bfloat16):
        assert loss(*narrow) == expected
    assert expected.dtype == torch.float32
    still = [torch.zeros_like(x) for x in MAPS]  # of no feature there is no direction
    assert made()(PROJECTED, TEACHER, still).isfinite()


# ---------------------------------------------------------------------- the connector


def test_pairs_are_the_layers_of_each_pair() -> None:
    """On maps that are pooled to the smaller of both sides; norms as torch's."""
    torch.manual_seed(0)
    pairs = LevelPairs()
    assert pairs.build(MAPS, TEACHER) == '3 maps of [3, 4, 5] channels -> each of [2, 6]'
    assert pairs.build(MAPS, TEACHER) == ''
    pairs.double()
    found = pairs(MAPS, [tuple(x.shape[2:]) for x in TEACHER])
    assert [x.shape for x in found] == [x.shape for x in PROJECTED]
    for k, one in enumerate(found):
        i, j = divmod(k, 2)
        size = one.shape[2:]
        seen = torch.nn.functional.adaptive_avg_pool2d(MAPS[i], tuple(size))
        torch.testing.assert_close(one, pairs.pairs[i][j](seen))
    own = pairs.pairs[1][1]
    assert [type(layer).__name__ for layer in own] == [
        *('Conv2d', 'BatchNorm', 'ReLU', 'Conv2d', 'BatchNorm', 'ReLU', 'Conv2d')
    ]
    shapes = [tuple(p.shape) for p in own.parameters() if p.dim() == 4]
    assert shapes == [(12, 4, 1, 1), (12, 12, 3, 3), (6, 12, 1, 1)]
    whole = pairs(MAPS)
    assert whole[0].shape == (3, 2, 6, 4)


@pytest.mark.bad_input
def test_what_is_refused() -> None:
    for options, message in (
        (dict(images=0), 'images must be a whole number'),
        (dict(factor=0), 'factor must be a whole number'),
        (dict(softness=0.0), 'softness must be a finite number above 0'),
    ):
        with pytest.raises(ValueError, match=message):
            CrossLevelLoss(**options)
    with pytest.raises(RuntimeError, match='the attention is not built.* Mend: build'):
        CrossLevelLoss()(PROJECTED, TEACHER, MAPS)
    loss = made()
    more = [[x.repeat(2, 1, 1, 1) for x in maps] for maps in (PROJECTED, TEACHER, MAPS)]
    with pytest.raises(ValueError, match='batches of 5 images, got 6; mend: images=6'):
        loss(*more)
    with pytest.raises(ValueError, match='of 3 levels to 2, got 2 and 2; mend: the taps'):
        loss(PROJECTED, TEACHER, MAPS[:2])
    with pytest.raises(ValueError, match='is of 6 pairs, but there are 4; mend: as many student_m'):
        loss(PROJECTED[:4], TEACHER, MAPS)
    with pytest.raises(ValueError, match='is to 2 maps, but teacher has 1'):
        cross_level(PROJECTED, TEACHER[:1], torch.ones(3, 3, 2))
    with pytest.raises(ValueError, match=r'cross-level matching, pair \(0, 1\) needs maps'):
        cross_level(PROJECTED[:1] * 6, TEACHER, torch.ones(3, 3, 2))
    pairs = LevelPairs(in_channels=(3, 4), out_channels=(2,))
    with pytest.raises(ValueError, match='pairs of 2 and 1 maps got 2 and 2; mend'):
        pairs.double()(MAPS[:2], [(4, 4), (2, 3)])
    with pytest.raises(RuntimeError, match='the pairs are not built'):
        LevelPairs()(MAPS)
    with pytest.raises(ValueError, match=r'teacher must be a list of maps .*; mend: reads=dict'):
        LevelPairs().build(MAPS, TEACHER[0])
    with pytest.raises(ValueError, match='channels of LevelPairs must be a whole number'):
        LevelPairs((0,), (2,))
