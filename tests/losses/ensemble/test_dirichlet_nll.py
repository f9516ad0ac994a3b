"""DirichletNLLLoss by value."""

import math

import numpy as np
import pytest
import torch
from helpers import ensembles
from helpers.ensembles import ensemble
from references.dirichlet import dirichlet_nll as reference
from scipy import optimize, stats
from scipy.special import digamma
from torch import Tensor
from torch.distributions import Dirichlet

from mmkd.evaluation.functional.uncertainty import concentration
from mmkd.losses import DirichletNLLLoss, dirichlet_nll
from mmkd.losses.ensemble.dirichlet_nll import clipped_concentration


def test_hand_values() -> None:
    # K = 2: Dir(2, 1) has the density 2 π₁, Dir(1, 1) the density 1
    teachers = torch.tensor([[[1.0, 3.0]], [[3.0, 1.0]]], dtype=torch.float64).log()
    student = torch.tensor([[2.0, 1.0]], dtype=torch.float64).log()
    assert dirichlet_nll(student, teachers, smoothing=0.0).item() == pytest.approx(
        -0.5 * (math.log(2 / 4) + math.log(2 * 3 / 4)), rel=1e-12
    )
    assert dirichlet_nll(torch.zeros(1, 2), teachers, smoothing=0.3).item() == pytest.approx(
        0, abs=1e-12
    )
    # ε = 0.2: π₁ = 0.3 and 0.7
    assert dirichlet_nll(student, teachers, smoothing=0.2).item() == pytest.approx(
        -0.5 * (math.log(2 * 0.3) + math.log(2 * 0.7)), rel=1e-12
    )
    # T = 2: α = (√4, 1) = (2, 1), π₁ = 1/4 of the members' squared odds, and the value is
    # multiplied by 4
    assert dirichlet_nll(2 * student, 2 * teachers, 2.0, 0.0).item() == pytest.approx(
        -4 * 0.5 * (math.log(2 / 4) + math.log(2 * 3 / 4)), rel=1e-12
    )


@pytest.mark.parametrize(('temperature', 'smoothing'), [(1.0, 1e-3), (2.5, 0.0), (10.0, 0.1)])
def test_equals_the_slow_loop(temperature: float, smoothing: float) -> None:
    student, teachers = ensemble(2, 5, 3)
    mask = torch.rand(2, 3) > 0.4
    for m in (None, mask):
        assert dirichlet_nll(student, teachers, temperature, smoothing, m).item() == pytest.approx(
            reference(student, teachers, temperature, smoothing, m), rel=1e-10
        )


def test_equals_other_libraries() -> None:
    student, teachers = ensemble(4, 5)
    value = dirichlet_nll(student, teachers, smoothing=0.0)
    torch.testing.assert_close(
        value, -Dirichlet(student.exp()).log_prob(teachers.softmax(2)).mean()
    )
    alpha, pi = student.detach().exp().numpy(), teachers.softmax(2).numpy()
    assert value.item() == pytest.approx(
        -sum(stats.dirichlet.logpdf(pi[m, n], alpha[n]) for m in range(3) for n in range(4)) / 12,
        rel=1e-12,
    )


def test_the_authors_offsets_change_nothing_to_speak_of() -> None:
    """Their ln(π + 1e-8), lnΓ(α + 1e-8) and (1−ε)(π − 1/K) + 1/K."""
    student, teachers = ensemble(6, 10)
    pi = (1 - 1e-3) * ((teachers / 3).softmax(2) - 0.1) + 0.1
    alpha = (student / 3).exp()
    theirs = (
        (alpha + 1e-8).lgamma().sum(1)
        - (alpha.sum(1) + 1e-8).lgamma()
        - ((alpha - 1) * (pi + 1e-8).log().mean(0)).sum(1)
    )
    torch.testing.assert_close(
        dirichlet_nll(student, teachers, 3.0), 9 * theirs.mean(), rtol=1e-6, atol=1e-6
    )


def test_the_gradient_that_breaks_many_classes() -> None:
    """At z = 0, K = 1000: −7.5 on the class that the members are sure of, but +8.5 on each of 999
    others.
    """
    student = torch.zeros(1, 1000, dtype=torch.float64, requires_grad=True)
    teachers = torch.zeros(2, 1, 1000, dtype=torch.float64)
    teachers[:, :, 7] = 16.0
    (gradient,) = torch.autograd.grad(dirichlet_nll(student, teachers, smoothing=0.0), student)
    harmonic = sum(1 / n for n in range(1, 1000))  # ψ(1000) − ψ(1)
    assert gradient[0, 7].item() == pytest.approx(-harmonic, abs=2e-4)
    assert gradient[0, 7].item() == pytest.approx(-7.5, abs=0.02)
    assert gradient[0, 0].item() == pytest.approx(8.5, abs=0.02)
    # smoothing bounds the tail: −ln(ε/K) − (ψ(K) − ψ(1))
    (gradient,) = torch.autograd.grad(dirichlet_nll(student, teachers, smoothing=1e-3), student)
    assert gradient[0, 0].item() == pytest.approx(-math.log(1e-6) - harmonic, abs=0.2)


def test_no_gradient_where_the_dirichlet_explains_the_members() -> None:
    """The optimum solves ψ(α_k) − ψ(α_0) = mean ln π_k; by hand for two mirrored members, by scipy
    for five.
    """
    a = 3.0
    product = math.exp(2 * (digamma(a) - digamma(2 * a)))  # p (1 − p)
    p = 0.5 + math.sqrt(0.25 - product)
    mirrored = torch.tensor([[[p, 1 - p]], [[1 - p, p]]], dtype=torch.float64).log()
    _, teachers = ensemble(1, 4, members=5)
    target = teachers.log_softmax(2).mean(0)[0].numpy()
    solution = optimize.root(
        lambda x: digamma(np.exp(x)) - digamma(np.exp(x).sum()) - target, np.zeros(4), tol=1e-14
    )
    for z, members in (([math.log(a)] * 2, mirrored), (solution.x.tolist(), teachers)):
        student = torch.tensor([z], dtype=torch.float64, requires_grad=True)
        value = dirichlet_nll(student, members, smoothing=0.0)
        assert torch.autograd.grad(value, student)[0].abs().max() < 1e-10
        for _ in range(10):
            assert (
                dirichlet_nll(student + 0.1 * torch.randn_like(student), members, smoothing=0.0)
                > value
            )


def test_module_equals_function_and_reads_the_temperature_at_each_call() -> None:
    student, teachers = ensemble(2, 3, 4, 4)
    loss = DirichletNLLLoss(10.0, 1e-2, loss_weight=3.0)
    assert loss(student, teachers) == 3 * dirichlet_nll(student, teachers, 10.0, 1e-2)
    loss.temperature = 2.5
    assert loss(student, teachers) == 3 * dirichlet_nll(student, teachers, 2.5, 1e-2)
    assert (loss.running().temperature, loss.running().smoothing) == (2.5, 1e-2)
    assert loss.loss_name == 'loss_dirichlet_nll_loss'
    assert DirichletNLLLoss()(student, teachers) == dirichlet_nll(student, teachers, 1.0, 1e-3)


def test_what_every_loss_of_an_ensemble_does() -> None:
    ensembles.check_streams(DirichletNLLLoss(3.0))
    ensembles.check_order_of_members(dirichlet_nll)
    ensembles.check_refusals(DirichletNLLLoss())


@pytest.mark.parametrize('logits', [[88.8, -88.8, 0.0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_huge_logits_overflow_nothing(logits: list[float], dtype: torch.dtype) -> None:
    student = torch.tensor([logits], dtype=dtype, requires_grad=True)
    value = dirichlet_nll(student, torch.tensor([[[5.0, 0.0, -9.0]], [[4.0, 1.0, -8.0]]]), 1.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert math.isfinite(value.item())
    assert gradient.isfinite().all()


def test_far_logits_that_are_not_clipped_stay_exact() -> None:
    student = torch.tensor([[60.0, -100.0, 0.0]], dtype=torch.float64, requires_grad=True)
    teachers = torch.tensor([[[5.0, 0.0, -9.0]], [[4.0, 1.0, -8.0]]], dtype=torch.float64)
    value = dirichlet_nll(student, teachers)
    assert value.item() == pytest.approx(reference(student, teachers, 1.0, 1e-3), rel=1e-12)
    # lnΓ(e^−100) = 100, so its gradient is −1
    assert torch.autograd.grad(value, student)[0][0, 1].item() == pytest.approx(-1, rel=1e-12)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'temperature': 0}, 'temperature must be a finite number above 0, got 0'),
        ({'smoothing': 1.0}, 'smoothing must be a number from 0 to below 1, got 1.0'),
    ],
)
def test_bad_options(option: dict, message: str) -> None:
    x: Tensor = torch.zeros(2, 1, 2)
    with pytest.raises(ValueError, match=message):
        DirichletNLLLoss(**option)
    with pytest.raises(ValueError, match=message):
        dirichlet_nll(x[0], x, **option)


def test_networks_are_tested_by_the_concentration_that_they_learn_with() -> None:
    z = torch.tensor([[-600.0, -3.0, 0.0, 20.0, 66.0]])
    assert torch.equal(clipped_concentration(z), concentration(z))
    assert clipped_concentration(torch.tensor([[80.0]])) < concentration(torch.tensor([[80.0]]))
