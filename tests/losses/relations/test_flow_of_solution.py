"""FlowOfSolutionLoss by value."""

import pytest
import torch
import torch.nn.functional as F
from references.relations import flow_of_solution as reference
from torch import Tensor

from mmkd.losses import FlowOfSolutionLoss, flow_of_solution


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def layers(size: tuple[int, int], later: tuple[int, int]) -> list[Tensor]:
    """Return student, teacher, and the later layers of both."""
    shapes = [(2, 3, *size)] * 2 + [(2, 5, *later)] * 2
    return [draw(*shape, seed=k) for k, shape in enumerate(shapes)]


def official(s: Tensor, t: Tensor, s_next: Tensor, t_next: Tensor) -> Tensor:
    """Return the formula of RepDistiller's code, of real sizes in place of squares."""

    def flow(bottom: Tensor, top: Tensor) -> Tensor:
        size = min(bottom.shape[2:], top.shape[2:])
        bottom, top = (F.adaptive_avg_pool2d(x, size).flatten(2) for x in (bottom, top))
        return (bottom.unsqueeze(1) * top.unsqueeze(2)).mean(-1)

    return F.mse_loss(flow(s, s_next), flow(t, t_next))


@pytest.mark.parametrize('later', [(4, 6), (2, 3), (8, 12), (3, 4)])
def test_it_is_the_formula_of_the_authors(later: tuple[int, int]) -> None:
    """Value, and the gradient of both layers."""
    maps = layers((4, 6), later)
    maps[0].requires_grad_(), maps[2].requires_grad_()
    found, expected = flow_of_solution(*maps), official(*maps)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(x, (maps[0], maps[2])) for x in (found, expected)]
    torch.testing.assert_close(*slopes)
    torch.testing.assert_close(FlowOfSolutionLoss(0.5)(*maps), 0.5 * found)


def test_masks_equal_the_slow_loop() -> None:
    maps = layers((4, 6), (4, 6))
    mask = torch.arange(48).view(2, 4, 6) % 3 != 1
    empty = mask.clone()
    empty[0] = False
    for own in (None, mask, empty):
        expected = reference(*maps, own)
        assert flow_of_solution(*maps, own).item() == pytest.approx(expected, rel=1e-11)
        ones = torch.ones(2, 4, 6)
        assert flow_of_solution(*maps, own, ones).item() == pytest.approx(expected, rel=1e-11)
    assert flow_of_solution(*maps, torch.zeros(2, 4, 6).bool()) == 0


def test_a_weight_is_how_often_a_place_counts() -> None:
    maps = layers((1, 3), (1, 3))
    weight = torch.tensor([[[1.0, 2.0, 0.0]], [[4.0, 2.0, 2.0]]])
    first = [x[:1, ..., [0, 1, 1]] for x in maps]
    second = [x[1:, ..., [0, 0, 1, 2]] for x in maps]
    expected = (flow_of_solution(*first) + flow_of_solution(*second)) / 2
    torch.testing.assert_close(flow_of_solution(*maps, weight=weight), expected)


@pytest.mark.parametrize('later', [(4, 6), (2, 3), (8, 12)])
def test_what_does_not_count_may_be_nan_in_both_layers(later: tuple[int, int]) -> None:
    maps = layers((4, 6), later)
    mask = torch.ones(2, 4, 6).bool()
    mask[:, 2:, 2:4] = False  # a window of the smaller map, four of the larger
    there = F.interpolate(mask[:, None].double(), later, mode='nearest') > 0
    maps[0].requires_grad_(), maps[2].requires_grad_()
    expected = flow_of_solution(*maps, mask)
    slopes = torch.autograd.grad(expected, (maps[0], maps[2]))
    spoilt = [
        x.detach().masked_fill(~(mask[:, None] if k < 2 else there), torch.nan)
        for k, x in enumerate(maps)
    ]
    spoilt[0].requires_grad_(), spoilt[2].requires_grad_()
    value = flow_of_solution(*spoilt, mask)
    assert value == expected
    assert all(map(torch.equal, torch.autograd.grad(value, (spoilt[0], spoilt[2])), slopes))
    # the left part of the maps alone, where nothing else counts
    left = mask.clone()
    left[..., 2:] = False
    cut = [x[..., : x.shape[3] // 3] for x in maps]
    torch.testing.assert_close(flow_of_solution(*maps, left), flow_of_solution(*cut))


def test_the_later_layer_learns_by_half_precision_too() -> None:
    maps = [x.half() for x in layers((4, 6), (2, 3))]
    maps[2].requires_grad_()
    value = flow_of_solution(*maps)
    assert value == flow_of_solution(*(x.float() for x in maps))
    assert torch.autograd.grad(value, maps[2])[0].dtype == torch.float16


def test_what_is_refused() -> None:
    maps = layers((4, 6), (2, 3))
    for k, shape in ((1, (2, 3, 4, 5)), (3, (2, 4, 2, 3)), (2, (2, 5, 2)), (0, (2, 3))):
        wrong = list(maps)
        wrong[k] = torch.ones(shape)
        with pytest.raises(ValueError, match='FSP needs two layers .*mend: connectors'):
            flow_of_solution(*wrong)
    other = torch.ones(3, 5, 2, 3)
    with pytest.raises(ValueError, match='FSP needs two layers'):
        flow_of_solution(*maps[:2], other, other)
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        flow_of_solution(*maps, torch.ones(2, 4, 6))
    with pytest.raises(TypeError, match='weight must be a float tensor'):
        flow_of_solution(*maps, weight=torch.ones(2, 4, 6).bool())
