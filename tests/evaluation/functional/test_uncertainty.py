"""Closed forms of uncertainty against Monte Carlo, hand values, identities and limits."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from mmkd.evaluation.functional.uncertainty import (
    EnsembleUncertainty,
    check_outputs,
    concentration,
    dirichlet_uncertainty,
    ensemble_uncertainty,
    entropy,
)

ALPHAS = torch.tensor(
    [[1.0, 1.0, 1.0], [0.3, 2.0, 5.0], [20.0, 30.0, 7.0], [0.1, 0.1, 0.1]], dtype=torch.float64
)


def assert_estimates(samples: Tensor, closed: Tensor) -> None:
    """Compare the mean of samples (S,) with a number, within five standard errors."""
    error = samples.std() / math.sqrt(len(samples))
    assert abs(samples.mean() - closed) < 5 * error + 1e-12, (
        samples.mean().item(),
        closed.item(),
        error.item(),
    )


# ---------------------------------------------------------------- Dirichlet


@pytest.mark.parametrize('alpha', ALPHAS)
def test_dirichlet_against_monte_carlo(alpha: Tensor) -> None:
    """Draw class distributions and measure on them what the closed forms say."""
    closed = {name: value[0] for name, value in dirichlet_uncertainty(alpha[None]).items()}
    draws = Dirichlet(alpha).sample((200_000,)).clamp(min=1e-300)
    mean = alpha / alpha.sum()
    assert closed['total'] == pytest.approx(float(entropy(mean[None])), rel=1e-12)
    assert_estimates(entropy(draws), closed['data'])
    assert_estimates((draws * (draws / mean).log()).sum(1), closed['knowledge'])
    assert_estimates((mean * (mean / draws).log()).sum(1), closed['mkl'])
    first, second = draws.chunk(2)
    assert_estimates((first * (first / second).log()).sum(1), closed['epkl'])
    assert_estimates(-Dirichlet(alpha).log_prob(draws), closed['differential_entropy'])


def test_dirichlet_by_hand() -> None:
    """Two classes, α = (1, 1): π is uniform on [0, 1], and −∫ 2 p ln p dp = 1/2."""
    flat = {name: value.item() for name, value in dirichlet_uncertainty(torch.ones(1, 2)).items()}
    assert flat == pytest.approx(
        dict(
            total=math.log(2),
            data=0.5,
            knowledge=math.log(2) - 0.5,
            epkl=0.5,
            mkl=1 - math.log(2),
            differential_entropy=0.0,
        ),
        abs=1e-12,
    )
    # K classes, α = 1: the volume of the simplex is 1 / (K − 1)!
    five = dirichlet_uncertainty(torch.ones(1, 5))
    assert five['differential_entropy'].item() == pytest.approx(-math.log(24))
    assert five['data'].item() == pytest.approx(1 / 2 + 1 / 3 + 1 / 4 + 1 / 5)  # ψ(6) − ψ(2)


def test_dirichlet_against_torch() -> None:
    """torch knows the entropy; mkl and epkl follow from its KL of Dirichlets one draw apart."""
    closed = dirichlet_uncertainty(ALPHAS)
    torch.testing.assert_close(closed['differential_entropy'], Dirichlet(ALPHAS).entropy())
    # Knowing the class adds 1 to its α: E KL(Dir(α + e_k) ‖ Dir(α)) is the mutual information of
    # class and π.
    mean = ALPHAS / ALPHAS.sum(1, keepdim=True)
    posterior = Dirichlet(ALPHAS[:, None] + torch.eye(3, dtype=torch.float64))
    knowledge = (mean * kl_divergence(posterior, Dirichlet(ALPHAS[:, None].expand(4, 3, 3)))).sum(1)
    torch.testing.assert_close(closed['knowledge'], knowledge)


def test_identities() -> None:
    alpha = concentration(2 * torch.randn(50, 7, 3, generator=torch.Generator().manual_seed(1)))
    closed = dirichlet_uncertainty(alpha)
    torch.testing.assert_close(
        closed['epkl'], closed['knowledge'] + closed['mkl'], rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(
        closed['total'], closed['knowledge'] + closed['data'], rtol=1e-10, atol=1e-12
    )
    assert {tuple(value.shape) for value in closed.values()} == {(50, 3)}
    permuted = dirichlet_uncertainty(alpha.flip(1))
    for name, value in closed.items():
        torch.testing.assert_close(permuted[name], value, rtol=1e-9, atol=1e-11)


def test_a_sharp_dirichlet_has_no_knowledge_uncertainty() -> None:
    """α → ∞ at a fixed mean: knowledge → (K − 1) / 2α₀, data → total."""
    mean = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    for alpha0 in (1e3, 1e6):
        closed = dirichlet_uncertainty(alpha0 * mean)
        assert closed['knowledge'].item() == pytest.approx(1 / alpha0, rel=2e-3)
        assert closed['mkl'].item() == pytest.approx(1 / alpha0, rel=2e-3)
        assert closed['data'].item() == pytest.approx(entropy(mean).item(), abs=2 / alpha0)


def test_a_dirichlet_of_certain_members_is_all_knowledge() -> None:
    """α → 0: every draw is a corner of the simplex."""
    closed = dirichlet_uncertainty(torch.full((1, 4), 1e-9, dtype=torch.float64))
    assert closed['data'].item() == pytest.approx(0, abs=1e-7)
    assert closed['knowledge'].item() == pytest.approx(math.log(4), abs=1e-7)


def test_concentration() -> None:
    """Its mean is softmax(z) without an offset; extreme logits leave every uncertainty finite."""
    z = torch.tensor([[1.0, 2.0, -3.0]])
    alpha = concentration(z)
    torch.testing.assert_close(alpha / alpha.sum(1), z.double().softmax(1))
    torch.testing.assert_close(concentration(z, 1.0) - alpha, torch.ones(1, 3, dtype=torch.float64))
    for extreme in (
        [[900.0, -900.0, 0.0]],
        [[-900.0, -900.0, -900.0]],
        [[95.0, 90.0, 94.0]],
        [[60000.0, 60000.0, -60000.0]],
    ):
        values = dirichlet_uncertainty(
            concentration(
                torch.tensor(
                    extreme,
                    dtype=torch.float16 if max(map(abs, extreme[0])) > 1000 else torch.float32,
                )
            )
        )
        assert all(value.isfinite().all() for value in values.values()), (extreme, values)
    # exp(95) overflows float32; the ranks of such logits survive
    sharp, sharper = (
        dirichlet_uncertainty(concentration(torch.tensor([[z, z]]))) for z in (95.0, 96.0)
    )
    assert sharp['epkl'].item() == pytest.approx(math.e * sharper['epkl'].item())


# ---------------------------------------------------------------- ensembles


def slow_ensemble(probs: Tensor) -> dict[str, float]:
    """Members (M, K) by the definitions, pair by pair."""
    members = [[float(p) for p in row] for row in probs]
    mean = [sum(column) / len(members) for column in zip(*members, strict=True)]

    def kl(p: list[float], q: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    def h(p: list[float]) -> float:
        return -sum(a * math.log(a) for a in p)

    return dict(
        total=h(mean),
        data=sum(map(h, members)) / len(members),
        knowledge=sum(kl(m, mean) for m in members) / len(members),
        mkl=sum(kl(mean, m) for m in members) / len(members),
        epkl=sum(kl(p, q) for p in members for q in members) / len(members) ** 2,
    )


def test_ensemble_against_the_definitions() -> None:
    probs = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(2)).softmax(2)
    fast = ensemble_uncertainty(probs)
    for n in range(2):
        for i in range(4):
            slow = slow_ensemble(probs[:, n, :, i])
            assert {name: value[n, i].item() for name, value in fast.items()} == pytest.approx(
                slow, abs=1e-7
            )


def test_ensemble_by_hand() -> None:
    """Two members (3/4, 1/4) and (1/4, 3/4): total ln 2, every pair a KL of ½ ln 3, half of the
    pairs the same.
    """
    probs = torch.tensor([[[0.75, 0.25]], [[0.25, 0.75]]], dtype=torch.float64)
    found = {name: value.item() for name, value in ensemble_uncertainty(probs).items()}
    data = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    knowledge = math.log(2) - data
    assert found == pytest.approx(
        dict(
            total=math.log(2),
            data=data,
            knowledge=knowledge,
            epkl=math.log(3) / 4,
            mkl=math.log(3) / 4 - knowledge,
        ),
        rel=1e-12,
    )


def test_ensembles_that_agree_or_are_certain() -> None:
    same = torch.tensor([[0.2, 0.8]]).expand(4, 1, 2)
    agree = ensemble_uncertainty(same)
    assert all(
        agree[name].item() == pytest.approx(0, abs=1e-7) for name in ('knowledge', 'epkl', 'mkl')
    )
    assert agree['data'].item() == pytest.approx(agree['total'].item())
    certain = ensemble_uncertainty(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]]))
    assert certain['data'].item() == 0
    assert all(value.isfinite().all() for value in certain.values())
    assert certain['mkl'].item() > 20  # a member excludes what others hold certain


def test_many_draws_of_a_dirichlet_are_an_ensemble() -> None:
    """The two families of measures are one: an ensemble drawn from a Dirichlet has its
    uncertainties.
    """
    alpha = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    found, closed = (
        ensemble_uncertainty(Dirichlet(alpha).sample((100_000, 1))),
        dirichlet_uncertainty(alpha[None]),
    )
    for name, value in found.items():
        assert value.item() == pytest.approx(closed[name].item(), rel=0.02), name


def test_running_sums_do_not_keep_members() -> None:
    probs = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(3)).softmax(2)
    sums, sizes = EnsembleUncertainty(), set()
    for member in probs:
        sums.update(member)
        sizes.add(sum(t.numel() for t in vars(sums).values() if isinstance(t, Tensor)))
    assert len(sizes) == 1
    torch.testing.assert_close(sums.mean, probs.double().mean(0))
    for name, value in ensemble_uncertainty(probs.flip(0)).items():
        torch.testing.assert_close(sums.compute()[name], value)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (
            lambda: dirichlet_uncertainty(torch.ones(3)),
            r'alpha must be \(N, C, \*S\) with two classes or more, got \(3,\)',
        ),
        (lambda: dirichlet_uncertainty(torch.ones(3, 1)), r'alpha must be .* got \(3, 1\)'),
        (
            lambda: dirichlet_uncertainty(torch.tensor([[1.0, -2.0]])),
            'alpha must be above 0, got -2. Mend: concentration',
        ),
        (
            lambda: dirichlet_uncertainty(torch.tensor([[1.0, math.nan]])),
            'alpha must be above 0, got nan',
        ),
        (
            lambda: ensemble_uncertainty(torch.ones(2, 3)),
            r'probs must be \(M, N, C, \*S\) with two classes.* got \(3,\)',
        ),
        (
            lambda: ensemble_uncertainty(torch.ones(1, 3, 2) / 2),
            'two members or more, got 1.* mmkd train-ensemble',
        ),
        (
            lambda: concentration(torch.zeros(1, 2), -1.0),
            'offset must be a finite number, 0 or above, got -1.0',
        ),
        (
            lambda: check_outputs('dirichlets', ('dirichlet', 'softmax'), 0.0),
            "outputs must be .*did you mean 'dirichlet'",
        ),
        (
            lambda: check_outputs('softmax', ('dirichlet', 'softmax'), 1.0),
            "offset=1.0 is added to .*='softmax' does not",
        ),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ('second', 'what'), [((1, 4), 'disagree on classes'), ((2, 3), 'differ in shape')]
)
def test_members_of_other_shapes(second: tuple[int, int], what: str) -> None:
    sums = EnsembleUncertainty()
    sums.update(torch.ones(1, 3) / 3)
    with pytest.raises(
        ValueError,
        match=rf'the members of an ensemble {what}: \(1, 3\) before, now .*Mend: members',
    ):
        sums.update(torch.ones(second))
