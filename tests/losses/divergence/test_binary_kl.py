"""BinaryKLLoss by value."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence

from mmkd.losses import BinaryKLLoss, binary_kl, pixel_wise_kl


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(), 2 * torch.randn(
        *shape, dtype=torch.float64
    )


def test_hand_value() -> None:
    """Odds of 1 against 3: 3/4 ln 3/2 + 1/4 ln 1/2; odds of 1 against 1: 0."""
    student, teacher = (
        torch.zeros(1, 2, dtype=torch.float64),
        torch.tensor([[3.0, 1.0]], dtype=torch.float64).log(),
    )
    assert binary_kl(student, teacher).item() == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-12
    )


@pytest.mark.parametrize('shape', [(3, 4), (2, 5, 3), (2, 3, 3, 4), (1, 1, 2, 2)])
@pytest.mark.parametrize('tau', [1.0, 2.5])
def test_equals_torchs_distributions(shape: tuple[int, ...], tau: float) -> None:
    student, teacher = pair(*shape)
    exact = (
        kl_divergence(Bernoulli(logits=teacher / tau), Bernoulli(logits=student / tau))
        .sum(1)
        .mean()
        * tau**2
    )
    torch.testing.assert_close(binary_kl(student, teacher, tau), exact)


def test_a_sigmoid_is_a_softmax_over_yes_and_no() -> None:
    """One class equals pixel-wise KL of the logits (0, z)."""
    student, teacher = pair(2, 1, 3, 4)
    both = [torch.cat([torch.zeros_like(x), x], 1) for x in (student, teacher)]
    for tau in (1.0, 3.0):
        torch.testing.assert_close(binary_kl(student, teacher, tau), pixel_wise_kl(*both, tau=tau))


def test_a_shift_of_all_logits_is_no_freedom() -> None:
    teacher = torch.randn(2, 19, 4, 4, dtype=torch.float64)
    assert binary_kl(teacher, teacher).item() == 0
    assert binary_kl(teacher + 0.5, teacher).item() > 0


def test_the_gradient_is_the_difference_of_probabilities() -> None:
    student, teacher = pair(2, 3, 2, 2)
    (gradient,) = torch.autograd.grad(binary_kl(student, teacher), student)
    torch.testing.assert_close(gradient, (student.detach().sigmoid() - teacher.sigmoid()) / 8)


def test_a_large_temperature_approaches_an_eighth_of_the_squared_distance() -> None:
    student, teacher = pair(2, 3, 2, 2)
    limit = (student - teacher).square().sum(1).mean() / 8
    torch.testing.assert_close(binary_kl(student, teacher, tau=1e3), limit, rtol=1e-4, atol=0)


def test_confident_classes_stay_finite() -> None:
    student = torch.tensor([[-200.0, 200.0]]).requires_grad_()
    value = binary_kl(student, -student.detach())
    assert value.item() == pytest.approx(400)
    torch.testing.assert_close(torch.autograd.grad(value, student)[0], torch.tensor([[-1.0, 1.0]]))


def test_refusals() -> None:
    with pytest.raises(ValueError, match='tau must be a finite number above 0, got 0'):
        BinaryKLLoss(tau=0)
    with pytest.raises(
        ValueError, match=r'student has 3 classes but teacher has 4 \(student \(2, 3\)'
    ):
        binary_kl(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(
        ValueError, match=r'binary KL needs logits \(N, C, \*S\), got student \(3,\)'
    ):
        binary_kl(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match='differ in shape.*connectors=dict'):
        binary_kl(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5))
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        binary_kl(torch.zeros(2, 3), torch.zeros(2, 3), mask=torch.ones(2))
