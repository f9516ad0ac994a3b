"""Directions of PixelWiseKLLoss, and standardised logits, by value."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.losses import PixelWiseKLLoss, pixel_wise_kl


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(), 2 * torch.randn(
        *shape, dtype=torch.float64
    )


def alpha_beta(alpha: float, beta: float) -> tuple[str, float, float]:
    return ('alpha-beta', alpha, beta)


@pytest.mark.parametrize(
    ('direction', 'same'), [(alpha_beta(1, 0), 'forward'), (alpha_beta(0, 1), 'reverse')], ids=str
)
def test_alpha_beta_at_its_ends_is_kl(direction: Any, same: str) -> None:
    student, teacher = pair(2, 5, 3, 4)
    values = [pixel_wise_kl(student, teacher, 2.0, d) for d in (direction, same)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(v, student)[0] for v in values))


@pytest.mark.parametrize('small', [1e-3, 1e-5, 1e-7])
def test_near_its_ends_it_keeps_its_digits(small: float) -> None:
    """The printed formula divides what has cancelled by α β."""
    student, teacher = (x.detach().float() for x in pair(2, 5, 3, 4))
    for direction, same in ((alpha_beta(1, small), 'forward'), (alpha_beta(small, 1), 'reverse')):
        value = pixel_wise_kl(student, teacher, direction=direction).item()
        assert value == pytest.approx(
            pixel_wise_kl(student, teacher, direction=same).item(), rel=20 * small + 1e-5
        )


def test_other_known_divergences() -> None:
    student, teacher = pair(4, 5)
    q, p = student.softmax(1), teacher.softmax(1)
    squares = (p - q).square().sum(1).mean() / 2
    roots = 2 * (p.sqrt() - q.sqrt()).square().sum(1).mean()
    for direction, exact in ((alpha_beta(1, 1), squares), (alpha_beta(0.5, 0.5), roots)):
        torch.testing.assert_close(pixel_wise_kl(student, teacher, direction=direction), exact)


def test_js_is_symmetric_and_at_most_ln_2() -> None:
    student, teacher = pair(2, 5, 3, 4)
    torch.testing.assert_close(
        pixel_wise_kl(student, teacher, direction='js'),
        pixel_wise_kl(teacher, student, direction='js'),
    )
    apart = torch.tensor([[1e4, -1e4]])
    assert pixel_wise_kl(apart, -apart, direction='js').item() == pytest.approx(math.log(2))


@pytest.mark.parametrize('direction', ['js', alpha_beta(0.5, 0.5), alpha_beta(2, 0)], ids=str)
def test_extreme_logits_are_finite(direction: Any) -> None:
    student = torch.zeros(2, 1000)
    student[0, 3], student[1, 4] = 1e4, -1e4
    student.requires_grad_()
    value = pixel_wise_kl(student, -student.detach(), direction=direction)
    exact = pixel_wise_kl(student.double(), -student.detach().double(), direction=direction)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_a_config_may_hold_a_list() -> None:
    student, teacher = pair(2, 5)
    torch.testing.assert_close(
        PixelWiseKLLoss(direction=['alpha-beta', 1, 0])(student, teacher),
        PixelWiseKLLoss()(student, teacher),
    )


@pytest.mark.parametrize(
    ('direction', 'message'),
    [
        ('forwards', "direction must be one of .*'forward'.*got 'forwards'"),
        ('alpha-beta', r"needs both: \('alpha-beta', 0.5, 0.5\)"),
        (('alpha-beta', 1), r"\('alpha-beta', α, β\), got \('alpha-beta', 1\)"),
        (('gamma', 1, 1), "direction must be one of .*got .'gamma', 1, 1"),
        (alpha_beta(0, 0), 'α or β above 0, got both 0'),
        (alpha_beta(-1, 1), 'α of direction must be'),
    ],
    ids=str,
)
def test_bad_directions(direction: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelWiseKLLoss(direction=direction)


def test_standardised_logits_have_no_size() -> None:
    """Of either side separately: a z + b with a > 0."""
    student, teacher = pair(2, 5, 3, 4)
    value = pixel_wise_kl(student, teacher, 2.0, standardize=True)
    for s, t in ((3 * student + 1, teacher), (student, 0.2 * teacher - 4)):
        torch.testing.assert_close(
            pixel_wise_kl(s, t, 2.0, standardize=True), value, rtol=1e-5, atol=0
        )
        assert abs(pixel_wise_kl(s, t, 2.0) - pixel_wise_kl(student, teacher, 2.0)) > 1e-3


def test_standardised_by_hand() -> None:
    """(1, 2, 3) has mean 2 and std 1 with C − 1."""
    student, teacher = torch.tensor([[[0.0], [2.0], [0.0]], [[5.0], [6.0], [7.0]]]).double()[
        :, None
    ]
    log_s = (student[0] - 2 / 3) / math.sqrt(4 / 3)
    torch.testing.assert_close(
        pixel_wise_kl(student, teacher, standardize=True),
        pixel_wise_kl(log_s[None], teacher - 6),
        rtol=1e-6,
        atol=0,
    )


def test_two_standardised_classes_have_an_order_alone() -> None:
    teacher = torch.tensor([[0.0, 9.0]])
    assert pixel_wise_kl(torch.tensor([[1.0, 1.1]]), teacher, standardize=True).item() < 1e-6


def test_constant_logits_have_a_finite_gradient() -> None:
    student = torch.full((1, 5), 0.1, requires_grad=True)
    value = pixel_wise_kl(student, torch.randn(1, 5), standardize=True)
    assert torch.autograd.grad(value, student)[0].isfinite().all()
