"""Prediction-rejection ratio and AUROC against a slow loop, hand values and limits."""

import math
from typing import Any

import numpy as np
import pytest

from mmkd.evaluation.functional.rejection import (
    ood_auroc,
    prediction_rejection_ratio,
    rejection_area,
)


def slow_prr(uncertainty: list[float], wrong: list[bool]) -> float:
    """Reject sample by sample and add up trapezia, for samples of different uncertainty."""
    n = len(wrong)

    def area(order: list[int]) -> float:
        errors = [sum(wrong[i] for i in order[rejected:]) / n for rejected in range(n + 1)]
        return sum((errors[i] + errors[i + 1]) / 2 / n for i in range(n))

    chosen = area(sorted(range(n), key=lambda i: -uncertainty[i]))
    oracle = area(sorted(range(n), key=lambda i: -wrong[i]))
    random = sum(wrong) / n / 2
    return 100 * (chosen - random) / (oracle - random)


def samples(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    uncertainty = rng.random(n)
    return uncertainty, rng.random(n) < uncertainty**2


def test_against_a_slow_loop() -> None:
    for seed in range(3):
        uncertainty, wrong = samples(seed=seed)
        assert prediction_rejection_ratio(uncertainty, wrong) == pytest.approx(
            slow_prr(uncertainty.tolist(), wrong.tolist()), rel=1e-10
        )


def test_by_hand() -> None:
    """Four samples, the second most uncertain is wrong: 1/4 until two are rejected. Area 1/16 +
    1/32, e/2 = 1/8.
    """
    uncertainty, wrong = [4, 3, 2, 1], [False, True, False, False]
    assert rejection_area(uncertainty, wrong) == pytest.approx(3 / 32)
    assert prediction_rejection_ratio(uncertainty, wrong) == pytest.approx(
        100 * (3 / 32 - 1 / 8) / (1 / 32 - 1 / 8)
    )


def test_oracle_random_and_worst() -> None:
    wrong = np.arange(100) < 20
    assert prediction_rejection_ratio(wrong, wrong) == pytest.approx(100)
    assert prediction_rejection_ratio(np.zeros(100), wrong) == pytest.approx(0, abs=1e-12)
    assert prediction_rejection_ratio(-wrong.astype(float), wrong) == pytest.approx(-100)
    rng = np.random.default_rng(0)
    assert abs(prediction_rejection_ratio(rng.random(100_000), rng.random(100_000) < 0.3)) < 2


def test_equal_uncertainties_are_the_mean_of_all_orders() -> None:
    """So the order of the data set does not matter."""
    uncertainty, wrong = np.array([2, 1, 1, 1, 0.5]), np.array([False, True, False, True, False])
    tied = prediction_rejection_ratio(uncertainty, wrong)
    assert prediction_rejection_ratio(uncertainty[::-1], wrong[::-1]) == pytest.approx(tied)
    rng, broken = np.random.default_rng(0), []
    for _ in range(2000):
        broken.append(slow_prr((uncertainty + 1e-6 * rng.random(5)).tolist(), wrong.tolist()))
    assert tied == pytest.approx(np.mean(broken), abs=5 * np.std(broken) / math.sqrt(2000))


def test_only_ranks_matter() -> None:
    uncertainty, wrong = samples()
    assert prediction_rejection_ratio(np.exp(5 * uncertainty), wrong) == prediction_rejection_ratio(
        uncertainty, wrong
    )
    assert ood_auroc(np.exp(5 * uncertainty), wrong) == ood_auroc(uncertainty, wrong)


@pytest.mark.parametrize('wrong', [[False, False], [True, True]])
def test_undefined_where_none_or_all_are_wrong(wrong: list[bool]) -> None:
    assert math.isnan(prediction_rejection_ratio([0.1, 0.2], wrong))


def test_auroc_counts_pairs_in_order() -> None:
    uncertainty, foreign = samples()
    inside, outside = uncertainty[~foreign], uncertainty[foreign]
    assert ood_auroc(uncertainty, foreign) == pytest.approx(
        np.mean(outside[:, None] > inside[None])
    )
    assert ood_auroc([1, 1, 1], [True, False, False]) == 0.5


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (
            lambda: prediction_rejection_ratio([1.0, 2.0], [True]),
            r'same length, not empty, got the shapes \(2,\) and \(1,\)',
        ),
        (lambda: rejection_area([], []), 'not empty'),
        (
            lambda: rejection_area([1.0, math.nan], [True, False]),
            '1 of 2 uncertainties are NaN.*look for NaN in the logits',
        ),
        (
            lambda: ood_auroc([1.0, 2.0], [True, True]),
            'all 2 are out of distribution. Mend: a test set that joins both',
        ),
        (
            lambda: ood_auroc([1.0, 2.0], [False, False]),
            'all 2 are in distribution.*metainfo ood=True',
        ),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
