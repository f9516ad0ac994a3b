"""Class maps of queries: the sum over queries, what heads predict, and what is refused."""

import math

import pytest
import torch

from mmkd.tasks.queries import class_map, log_scores, queries_of


def drawn(queries: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, queries, classes + 1, generator=generator)
    return scores, torch.randn(2, queries, 4, 6, generator=generator)


def test_the_sum_over_queries_by_a_slow_loop() -> None:
    classes, masks = drawn()
    found = log_scores(classes, masks)
    for n in range(2):
        for c in range(3):
            for y in range(4):
                for x in range(6):
                    total = 0.0
                    for q in range(5):
                        probable = torch.softmax(classes[n, q].double(), 0)[c].item()
                        total += probable / (1 + math.exp(-masks[n, q, y, x].item()))
                    assert found[n, c, y, x].item() == pytest.approx(math.log(total), abs=1e-5)


def test_the_order_of_queries_does_not_matter_and_no_object_says_nothing() -> None:
    classes, masks = drawn()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        log_scores(classes[:, order], masks[:, order]), log_scores(classes, masks)
    )
    nothing = torch.full((2, 1, 4), -50.0)
    nothing[..., -1] = 50.0  # a query that is sure of no object
    more = torch.cat([classes, nothing], 1), torch.cat([masks, masks[:, :1]], 1)
    torch.testing.assert_close(log_scores(*more), log_scores(classes, masks))


def test_gradients_reach_classes_and_masks_and_nothing_is_infinite() -> None:
    classes, masks = drawn()
    torch.autograd.gradcheck(
        lambda c, m: log_scores(c, m).exp(),
        (classes.requires_grad_(), masks.requires_grad_()),
        eps=1e-3,
        atol=1e-3,
    )
    never = log_scores(torch.zeros(1, 1, 3), torch.full((1, 1, 1, 1), -1e4))
    assert torch.isfinite(never).all()


@pytest.mark.parametrize('order', [(0, 1), (1, 0)])  # MaskFormer's, and SAN's
@pytest.mark.parametrize('stacked', [True, False])
def test_the_last_layer_counts(order: tuple[int, int], stacked: bool) -> None:
    layers = [drawn(), tuple(part + 1 for part in drawn())]
    parts = [[layer[i] for layer in layers] for i in order]
    output = tuple(torch.stack(part) if stacked else part for part in parts)
    torch.testing.assert_close(class_map(output), log_scores(*layers[-1]))


def test_maps_stay_as_they_are() -> None:
    one, two = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert class_map(one) is one
    assert class_map([one, two]) is two  # stages: the last
    assert class_map((one, two.sum((2, 3)))) is one  # a head that answers with more
    assert queries_of((one, two)) is None
    assert queries_of((torch.zeros(2, 5, 4), torch.zeros(2, 6, 4, 4))) is None


@pytest.mark.bad_input
def test_no_map_is_refused() -> None:
    with pytest.raises(TypeError, match=r'the head answers with a tuple without a map \(N, C'):
        class_map((torch.zeros(2, 3),))
