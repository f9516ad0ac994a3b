"""PartialL2Loss by value: what it asks nothing of, margins, many ranks, weights and refusals."""

import json
import math
from pathlib import Path

import pytest
import torch
from helpers import two_ranks_matching
from helpers.processes import ranks
from references import partial_l2 as reference
from torch import Tensor

from mmkd.losses import PartialL2Loss, margin_of_batch_norm, partial_l2


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


STUDENT, TEACHER = draw(3, 4, 5, 6), 2 * draw(3, 4, 5, 6, seed=1) - 0.5


def test_it_is_the_authors_over_channels_and_places() -> None:
    """Their distillation_loss with a margin a channel, summed."""
    margin = -draw(4, seed=2).abs()
    target = torch.max(TEACHER, margin.view(4, 1, 1))
    loss = torch.nn.functional.mse_loss(STUDENT, target, reduction='none')
    official = (loss * ((target < STUDENT) | (target > 0)).float()).sum()
    value = PartialL2Loss(margin.tolist()).double()(STUDENT, TEACHER)
    torch.testing.assert_close(value, official / STUDENT.numel(), rtol=1e-6, atol=0)


def test_nothing_is_asked_where_the_student_is_below_a_target_that_is_cut() -> None:
    """And no gradient flows; just above the target both are there."""
    teacher = -TEACHER.abs() - 0.01
    target = teacher.clamp(min=-0.7)
    student = (target - STUDENT.abs()).requires_grad_()
    value = partial_l2(student, teacher, -0.7)
    assert value == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()
    student = (target + 0.5).requires_grad_()
    value = partial_l2(student, teacher, -0.7)
    assert value.item() == pytest.approx(0.25)
    assert (torch.autograd.grad(value, student)[0] > 0).all()


def test_a_teacher_after_its_relu_has_margin_zero() -> None:
    teacher = TEACHER.relu()
    squares = (STUDENT - teacher).square() * ((teacher > 0) | (STUDENT > 0))
    torch.testing.assert_close(partial_l2(STUDENT, teacher), squares.mean())


def test_the_margin_of_a_normalisation_is_that_of_its_channels() -> None:
    """Of many normal numbers, with weights of either sign."""
    weight, bias = torch.tensor([1.0, -2.0, 0.5, 1.0]), torch.tensor([0.0, 1.0, -0.7, 2.0])
    x = draw(2_000_000, 4) * weight.double() + bias.double()
    means = torch.stack([column[column < 0].mean() for column in x.T])
    margin = margin_of_batch_norm(weight, bias)
    assert margin.dtype == torch.float32
    torch.testing.assert_close(margin.double(), means, rtol=1e-2, atol=0)
    formula = [
        b - abs(w) * density(b / abs(w)) / below(-b / abs(w)) for w, b in pairs(weight, bias)
    ]
    torch.testing.assert_close(margin, torch.tensor(formula))


def pairs(weight: Tensor, bias: Tensor) -> list[tuple[float, float]]:
    return list(zip(weight.tolist(), bias.tolist(), strict=True))


def density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def below(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def test_margins_of_channels_that_are_always_or_never_negative() -> None:
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    bias = torch.tensor([-50.0, 20.0, 1e6, -3.0, 3.0, 0.0])
    margin = margin_of_batch_norm(weight, bias)
    # of a mean far above 0: −s² / b, to first order
    expected = torch.tensor([-50.0, -0.05, 0.0, -3.0, 0.0, 0.0])
    torch.testing.assert_close(margin, expected, rtol=1e-2, atol=1e-12)


@pytest.mark.parametrize('margin', [None, -0.4])
def test_weights(margin: float | None) -> None:
    """Ones change nothing; others are the reference's, beside a mask too."""
    loss = PartialL2Loss() if margin is None else PartialL2Loss(margin)
    ones, weight = torch.ones(3, 5, 6), draw(3, 5, 6, seed=7).relu()
    mask = torch.arange(90).view(3, 5, 6) % 3 != 1
    for kept in (None, mask):
        whole = loss(STUDENT, TEACHER, kept)
        assert loss(STUDENT, TEACHER, kept, ones) == whole
        expected = reference.partial_l2(STUDENT, TEACHER, margin, kept, weight)
        got = loss(STUDENT, TEACHER, kept, weight)
        assert got.item() == pytest.approx(expected)
        assert abs(got - whole) > 1e-4


def test_margins_are_in_the_config_and_not_in_the_checkpoint() -> None:
    assert PartialL2Loss([-1.0, 0.0]).state_dict() == {}


def test_what_is_refused() -> None:
    for margin in (0.1, [-1.0, 1.0], float('nan'), -float('inf'), 'bn'):
        with pytest.raises(ValueError, match=r"margin must be 'batch', or .* Mend"):
            PartialL2Loss(margin)
    with pytest.raises(ValueError, match=r'margin \(2,\) must be one a channel .* mend'):
        PartialL2Loss([-1.0, -1.0])(STUDENT, TEACHER)
    with pytest.raises(ValueError, match="margin must be one of .*'batch'.*'bn'"):
        partial_l2(STUDENT, TEACHER, 'bn')
    with pytest.raises(ValueError, match='partial L2 needs maps'):
        partial_l2(STUDENT, TEACHER[:, :3])
    with pytest.raises(ValueError, match='weight must have the shape'):
        partial_l2(STUDENT, TEACHER, weight=torch.ones(3))


@pytest.mark.slow
def test_two_ranks_have_the_margin_of_the_joined_batch(tmp_path: Path) -> None:
    ranks(two_ranks_matching.work, tmp_path)
    found = [json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2)]
    for kind in ('whole', 'masked'):
        student, teacher, mask = two_ranks_matching.batch(kind)
        values = [one[kind]['partial_l2'] for one in found]
        expected = partial_l2(student, teacher, mask=mask).item()
        assert sum(values) / 2 == pytest.approx(expected, rel=1e-12)
        alone = partial_l2(student[:2], teacher[:2], mask=mask[:2]).item()
        assert values[0] != pytest.approx(alone, rel=1e-3)
