"""ProxyDirichletLoss by value."""

import math
from functools import partial

import pytest
import torch
from helpers import ensembles
from helpers.ensembles import ensemble
from references.dirichlet import proxy_dirichlet as reference
from scipy.special import polygamma
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from mmkd.losses import ProxyDirichletLoss, proxy_dirichlet
from mmkd.losses.ensemble.proxy_dirichlet import dirichlet_kl

DIRECTIONS = ['reverse', 'forward']


def target(teachers: Tensor, offset: float = 1.0) -> Tensor:
    """Return β as the equations have it."""
    pi = teachers.softmax(2)
    mkl = (pi.mean(0) * (pi.mean(0).log() - pi.log())).sum(2).mean(0)
    return (
        pi.mean(0) * ((teachers.shape[2] - 1) / (2 * mkl + 1e-8)).clamp(max=1e6)[:, None] + offset
    )


def test_hand_values() -> None:
    # π = (1/4, 3/4) and (3/4, 1/4): MKL = ½ ln 4/3, β̃₀ = 1 / ln(4/3); the student Dir(2, 2)
    teachers = torch.tensor([[[1.0, 3.0]], [[3.0, 1.0]]], dtype=torch.float64).log()
    student = torch.zeros(1, 2, dtype=torch.float64)
    b = 0.5 / (math.log(4 / 3) + 1e-8) + 1
    # −ln B(2, 2) = ln 6, −ln B(b, b) = lnΓ(2b) − 2 lnΓ(b); E ln π = ψ(2) − ψ(4) = −5/6 under Dir(2,
    # 2)
    log_b = math.lgamma(2 * b) - 2 * math.lgamma(b)
    reverse = math.log(6) - log_b + 2 * (2 - b) * -5 / 6
    assert proxy_dirichlet(student, teachers).item() == pytest.approx(reverse / (2 * b), rel=1e-12)
    expectation = torch.tensor([b, 2 * b], dtype=torch.float64).digamma()
    forward = log_b - math.log(6) + 2 * (b - 2) * (expectation[0] - expectation[1]).item()
    assert proxy_dirichlet(student, teachers, 'forward').item() == pytest.approx(forward, rel=1e-12)


@pytest.mark.parametrize('offset', [0.3])
@pytest.mark.parametrize('direction', DIRECTIONS)
def test_equals_the_slow_loop_at_another_offset(direction: str, offset: float) -> None:
    student, teachers = ensemble(2, 5, 3)
    mask = torch.rand(2, 3) > 0.4
    for m in (None, mask):
        assert proxy_dirichlet(student, teachers, direction, offset, m).item() == pytest.approx(
            reference(student, teachers, direction, offset, m), rel=1e-9
        )


@pytest.mark.parametrize('offset', [1.0, 0.0])
def test_equals_torch_distributions(offset: float) -> None:
    student, teachers = ensemble(4, 6)
    beta = target(teachers, offset)
    alpha, beta_d = Dirichlet(student.exp() + offset), Dirichlet(beta)
    torch.testing.assert_close(
        proxy_dirichlet(student, teachers, 'forward', offset), kl_divergence(beta_d, alpha).mean()
    )
    torch.testing.assert_close(
        proxy_dirichlet(student, teachers, 'reverse', offset),
        (kl_divergence(alpha, beta_d) / beta.sum(1)).mean(),
    )


def test_reverse_is_the_authors_loss_up_to_a_constant() -> None:
    """Theirs: −Σ π̄ (ψ(α) − ψ(α_0)) − H[Dir α] / β_0, where π̄ and β_0 already hold the offset."""
    student, teachers = ensemble(5, 6)
    beta = target(teachers)
    alpha = student.exp() + 1
    beta_0 = beta.sum(1)
    theirs = (
        -(
            (beta - 1) / beta_0[:, None] * (alpha.digamma() - alpha.sum(1, keepdim=True).digamma())
        ).sum(1)
        - Dirichlet(alpha).entropy() / beta_0
    )
    constant = (beta.sum(1).lgamma() - beta.lgamma().sum(1)) / beta_0
    ours = proxy_dirichlet(student, teachers)
    torch.testing.assert_close(ours, (theirs - constant).mean())
    torch.testing.assert_close(*(torch.autograd.grad(v, student)[0] for v in (ours, theirs.mean())))


def test_the_precision_is_read_off_the_disagreement() -> None:
    """Members drawn of a Dirichlet give its precision back, where it is large against the number of
    classes.
    """
    alpha = torch.tensor([40.0, 100.0, 60.0, 200.0], dtype=torch.float64)
    members = Dirichlet(alpha).sample((20000,)).log()[:, None]
    assert target(members, 0.0).sum().item() == pytest.approx(400, rel=0.02)


def test_members_that_agree_meet_the_cap() -> None:
    logits = torch.randn(1, 4, dtype=torch.float64)
    teachers = torch.stack([logits, logits])
    student = (1e6 * logits.softmax(1)).log()
    for direction in DIRECTIONS:
        assert proxy_dirichlet(student, teachers, direction).item() == pytest.approx(0, abs=1e-7)
        assert proxy_dirichlet(student + 1, teachers, direction) > proxy_dirichlet(
            student, teachers, direction
        )


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('offset', [1.0, 0.3])
def test_zero_with_zero_gradient_at_the_target(direction: str, offset: float) -> None:
    _, teachers = ensemble(6, 19)
    student = (target(teachers, offset) - offset).log().requires_grad_()
    value = proxy_dirichlet(student, teachers, direction, offset)
    assert abs(value.item()) < 1e-12
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-12
    for _ in range(10):
        assert (
            proxy_dirichlet(student + 0.1 * torch.randn_like(student), teachers, direction, offset)
            > value
        )


@pytest.mark.parametrize('direction', DIRECTIONS)
def test_gradcheck(direction: str) -> None:
    student, teachers = ensemble(2, 3, 2, 2)
    mask = torch.tensor([[[1, 0], [1, 1]], [[0, 1], [1, 0]]], dtype=torch.bool)
    student = (
        (student + torch.linspace(-2, 9, 4).view(1, 1, 2, 2)).detach().requires_grad_()
    )  # on both sides of 1e3
    assert torch.autograd.gradcheck(
        lambda s: proxy_dirichlet(s, teachers, direction, mask=mask), student
    )


def test_only_the_reverse_direction_stands_many_classes() -> None:
    """As with the plain likelihood, forward's gradient on each of 999 unlikely classes is as large
    as on the true one.

    Reverse by hand at α = 2 (z = 0) and β = π̄β̃₀ + 1: Σβ · ∂/∂z_k = (α_k − β_k) ψ'(α_k) − (α_0 −
    β_0) ψ'(α_0).
    """
    student = torch.zeros(1, 1000, dtype=torch.float64, requires_grad=True)
    teachers = torch.zeros(2, 1, 1000, dtype=torch.float64)
    teachers[:, :, 7] = 16.0
    (forward,) = torch.autograd.grad(proxy_dirichlet(student, teachers, 'forward'), student)
    assert forward[0, 7].item() == pytest.approx(-7.2, abs=0.1)
    assert forward[0, 0].item() == pytest.approx(6.9, abs=0.2)
    (reverse,) = torch.autograd.grad(proxy_dirichlet(student, teachers), student)
    beta = target(teachers)[0].numpy()
    expected = (
        (2 - beta) * polygamma(1, 2) - (2000 - beta.sum()) * polygamma(1, 2000)
    ) / beta.sum()
    assert reverse[0].tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    assert reverse[0, 7].item() == pytest.approx(-0.644, abs=0.001)
    assert reverse[0, 0].item() == pytest.approx(5e-4, rel=0.01)


def test_narrow_dirichlets_keep_their_digits() -> None:
    """KL(Dir cp‖Dir q) grows as ln c, though its terms grow as c ln c; here it is known to 1 /
    c.
    """
    p, q = (
        torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64),
        torch.tensor([2.0, 5.0, 1.0], dtype=torch.float64),
    )
    for c in (1e9, 1e15, 1e60):
        # entropy of the Gaussian limit: ½ ln((2πe/c)^(K−1) Π p)
        entropy = 0.5 * (2 * math.log(2 * math.pi * math.e / c) + p.log().sum())
        expected = -entropy + q.lgamma().sum() - q.sum().lgamma() - ((q - 1) * p.log()).sum()
        torch.testing.assert_close(
            dirichlet_kl(c * p[None], q[None])[0], expected, rtol=1e-7, atol=0
        )
    # both branches agree where they meet
    for c in (1998.0, 3000.0, 5100.0):
        torch.testing.assert_close(
            dirichlet_kl(c * p[None], q[None])[0],
            kl_divergence(Dirichlet(c * p), Dirichlet(q)),
            rtol=1e-11,
            atol=0,
        )


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('logits', [[88.8, -88.8, 0.0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]])
@pytest.mark.parametrize(
    'teachers', [[[5.0, 0.0, -9.0], [4.0, 1.0, -8.0]], [[1e4, 0.0, -1e4], [1e4, 0.0, -1e4]]]
)
def test_huge_logits_overflow_nothing(
    logits: list[float], teachers: list[list[float]], direction: str
) -> None:
    student = torch.tensor([logits], requires_grad=True)
    value = proxy_dirichlet(student, torch.tensor(teachers)[:, None], direction)
    assert math.isfinite(value.item())
    assert value > -1e-6
    assert torch.autograd.grad(value, student)[0].isfinite().all()


@pytest.mark.parametrize('z', [300.0, 355.0, 356.0, 400.0, 500.0, 532.0])
def test_gradients_of_huge_logits_in_float64_are_their_limits(z: float) -> None:
    """By hand: ∂KL/∂α_k = (α_k − β_k) ψ'(α_k) − (α_0 − β_0) ψ'(α_0), whose second term is 1 as α_j
    → ∞.

    Times dα/dz, for class j itself β_0 − β_j is left, as (x − b) ψ'(x) = 1 + (½ − b) / x + …
    """
    teachers = torch.tensor([[[1.0, 3.0, 2.0]], [[3.0, 1.0, 2.0]]], dtype=torch.float64).log()
    student = torch.tensor([[z, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    value = proxy_dirichlet(student, teachers)
    (got,) = torch.autograd.grad(value, student)
    beta = target(teachers)[0].numpy()
    others = student.detach()[0, 1:].exp().numpy() + 1  # α_k
    expected = [beta[1:].sum(), *(((others - beta[1:]) * polygamma(1, others) - 1) * (others - 1))]
    assert got[0].tolist() == pytest.approx([e / beta.sum() for e in expected], rel=1e-9)
    step = proxy_dirichlet(student.detach() + torch.tensor([[-1.0, 0.0, 0.0]]), teachers)
    assert (value - step).item() == pytest.approx(got[0, 0].item(), rel=1e-9)  # linear out there


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('z', [533.0, 1e4, 1e300, -356.0, -1e4, -1e300])
def test_gradients_are_finite_for_any_finite_logit_of_float64(z: float, direction: str) -> None:
    teachers = torch.tensor([[[1.0, 3.0, 2.0]], [[3.0, 1.0, 2.0]]], dtype=torch.float64).log()
    for logits in ([z, 0.0, -1.0], [z, z, z], [z, -z, 0.0]):
        student = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
        value = proxy_dirichlet(student, teachers, direction)
        assert math.isfinite(value.item())
        assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_module_equals_function() -> None:
    student, teachers = ensemble(2, 3, 4, 4)
    loss = ProxyDirichletLoss('forward', 0.5, loss_weight=3.0)
    assert loss(student, teachers) == 3 * proxy_dirichlet(student, teachers, 'forward', 0.5)
    assert loss.loss_name == 'loss_proxy_dirichlet_loss'
    assert ProxyDirichletLoss()(student, teachers) == proxy_dirichlet(
        student, teachers, 'reverse', 1.0
    )


@pytest.mark.parametrize('direction', DIRECTIONS)
def test_what_every_loss_of_an_ensemble_does(direction: str) -> None:
    loss = partial(proxy_dirichlet, direction=direction)
    ensembles.check_streams(ProxyDirichletLoss(direction))
    ensembles.check_order_of_members(loss)
    ensembles.check_refusals(ProxyDirichletLoss(direction))


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (
            {'direction': 'revers'},
            "direction must be one of .*got 'revers'; did you mean 'reverse'",
        ),
        ({'offset': -1.0}, 'offset must be a finite number, 0 or above, got -1.0'),
        ({'offset': float('nan')}, 'offset must be'),
        ({'offset': '1'}, "got '1'"),
    ],
)
def test_bad_options(option: dict, message: str) -> None:
    x = torch.zeros(2, 1, 2)
    with pytest.raises(ValueError, match=message):
        ProxyDirichletLoss(**option)
    with pytest.raises(ValueError, match=message):
        proxy_dirichlet(x[0], x, **option)
