"""Answers to the same queries by value: the authors' terms, limits, refusals."""

import math

import pytest
import torch
from references.query_answers import official
from torch import Tensor

from mmkd.losses import pixel_wise_kl, query_answers

GENERATOR = torch.Generator().manual_seed(7)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


def boxes_of(*shape: int) -> Tensor:
    return torch.rand(*shape, 4, dtype=torch.float64, generator=GENERATOR) * 0.5 + 0.1


LOGITS, SAID = draw(2, 7, 3), 2 * draw(2, 7, 3)
BOXES, TARGETS = boxes_of(2, 7), boxes_of(2, 7)
WEIGHT = torch.rand(2, 7, dtype=torch.float64, generator=GENERATOR)


def test_by_hand() -> None:
    """Classes (1/4, 3/4) against halves; a box of 0.2×0.2 beside one of its size, 0.2 on."""
    logits = torch.zeros(1, 2, dtype=torch.float64)
    said = torch.tensor([[1.0, 3.0]], dtype=torch.float64).log()
    own = torch.tensor([[0.5, 0.5, 0.2, 0.2]], dtype=torch.float64)
    other = torch.tensor([[0.7, 0.5, 0.2, 0.2]], dtype=torch.float64)
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    for weights, expected in (
        ((1.0, 0.0, 0.0), kl),
        ((0.0, 1.0, 0.0), 0.2 / 4),
        ((0.0, 0.0, 1.0), 1.0),
        ((1.0, 5.0, 2.0), kl + 0.25 + 2.0),
    ):
        value = query_answers(logits, said, own, other, None, 1.0, *weights)
        assert value.item() == pytest.approx(expected)


def test_it_is_the_authors_terms() -> None:
    """Classes are divided by Σ w and multiplied by C: a mean over queries, a sum over classes."""
    classes, l1, giou, weight = official(LOGITS, SAID, BOXES, TARGETS)
    value = query_answers(LOGITS, SAID, BOXES, TARGETS, weight.view(2, 7))
    torch.testing.assert_close(value, classes * 3 / weight.sum() + 5 * l1 + 2 * giou)


def test_classes_alone_are_pixel_wise_kl() -> None:
    value = query_answers(LOGITS, SAID, BOXES, BOXES, tau=2.0)
    expected = pixel_wise_kl(LOGITS.movedim(2, 1), SAID.movedim(2, 1), 2.0)
    torch.testing.assert_close(value, expected)


def test_equal_answers_are_at_no_distance() -> None:
    logits, boxes = SAID.clone().requires_grad_(), TARGETS.clone().requires_grad_()
    value = query_answers(logits, SAID, boxes, TARGETS, WEIGHT)
    value.backward()
    assert value.abs() < 1e-14
    for x in (logits, boxes):
        assert x.grad is not None
        assert x.grad.abs().max() < 1e-14


def test_queries_count_by_their_weight_and_in_any_order() -> None:
    given = LOGITS, SAID, BOXES, TARGETS
    value = query_answers(*given, WEIGHT)
    torch.testing.assert_close(query_answers(*given, 3 * WEIGHT), value)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    moved = query_answers(*(x[:, order] for x in given), WEIGHT[:, order])
    torch.testing.assert_close(moved, value)
    twice = query_answers(*(torch.cat([x, x]) for x in given), torch.cat([WEIGHT, WEIGHT]))
    torch.testing.assert_close(twice, value)
    torch.testing.assert_close(query_answers(*given, torch.ones(2, 7)), query_answers(*given))
    alone = WEIGHT.clone()
    alone[:, 1:] = 0
    first = query_answers(*(x[:, :1] for x in given), WEIGHT[:, :1])
    torch.testing.assert_close(query_answers(*given, alone), first)
    assert query_answers(*given, 0 * WEIGHT) == 0


def test_equal_boxes_of_few_pixels_are_at_no_distance() -> None:
    tiny = torch.tensor([[0.5, 0.5, 5e-4, 5e-4]], dtype=torch.float64)
    own, logits = tiny.clone().requires_grad_(), torch.zeros(1, 2, dtype=torch.float64)
    value = query_answers(logits, logits, own, tiny)
    value.backward()
    assert value == 0
    assert own.grad is not None
    assert own.grad.abs().max() < 1e-9


def test_gradients() -> None:
    inputs = LOGITS.clone().requires_grad_(), BOXES.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits, boxes: query_answers(logits, SAID, boxes, TARGETS, WEIGHT, 2.0), inputs
    )


def test_half_precision_is_widened() -> None:
    value = query_answers(*(x.bfloat16() for x in (LOGITS, SAID, BOXES, TARGETS)))
    expected = query_answers(*(x.bfloat16().float() for x in (LOGITS, SAID, BOXES, TARGETS)))
    assert value.dtype == torch.float32
    assert value == expected


@pytest.mark.bad_input
def test_what_it_refuses() -> None:
    for given in (
        (LOGITS[..., :2], SAID, BOXES, TARGETS),
        (LOGITS, SAID, BOXES[:1], TARGETS),
        (LOGITS, SAID, BOXES[..., :2], TARGETS),
    ):
        with pytest.raises(ValueError, match='of the same queries, got logits .*mend: members of'):
            query_answers(*given)
    one = LOGITS[..., :1], SAID[..., :1], BOXES, TARGETS
    with pytest.raises(ValueError, match=r'no softmax over classes .*\(2, 7, 1\).*mend: classes=0'):
        query_answers(*one)
    value = query_answers(*one, classes=0.0)
    assert value == query_answers(LOGITS, SAID, BOXES, TARGETS, classes=0.0)
