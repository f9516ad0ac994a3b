"""NLL, Brier score and ECE against scikit-learn, hand values and a slow loop."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor

from mmkd.evaluation.functional.calibration import (
    BINS,
    brier_score,
    calibration_sums,
    expected_calibration_error,
    nll,
)


def data(n: int = 300, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        2 * torch.randn(n, classes, generator=generator, dtype=torch.float64),
        torch.randint(classes, (n,), generator=generator),
    )


def slow_ece(prob: Tensor, labels: Tensor) -> float:
    """Bin by bin, in the words of the definition."""
    total = 0.0
    for b in range(1, BINS + 1):
        inside = [
            (float(p.max()), int(p.argmax()) == int(y))
            for p, y in zip(prob, labels, strict=True)
            if (b - 1) / BINS < float(p.max()) <= b / BINS
        ]
        if inside:
            confidence, right = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            total += len(inside) / len(prob) * abs(right - confidence)
    return total


def test_against_scikit_learn() -> None:
    logits, labels = data()
    prob = logits.softmax(1)
    assert nll(logits, labels) == pytest.approx(log_loss(labels, prob, labels=range(4)), rel=1e-9)
    assert brier_score(logits, labels) == pytest.approx(
        sum(  # binary losses of all classes, summed
            brier_score_loss((labels == c).long(), prob[:, c], pos_label=1) for c in range(4)
        ),
        rel=1e-9,
    )
    assert calibration_sums(logits, labels).error == np.mean(
        prob.argmax(1).numpy() != labels.numpy()
    )


def test_ece_against_the_definition() -> None:
    logits, labels = data()
    assert expected_calibration_error(logits, labels) == pytest.approx(
        slow_ece(logits.softmax(1), labels), rel=1e-9
    )


def test_ece_by_hand() -> None:
    """Three at 0.8 with two right, two at 0.6 with none right: (3·|2/3 − 0.8| + 2·0.6) / 5 =
    0.32.
    """
    prob = torch.tensor([[0.8, 0.2]] * 3 + [[0.6, 0.4]] * 2, dtype=torch.float64)
    assert expected_calibration_error(prob.log(), torch.tensor([0, 0, 1, 1, 1])) == pytest.approx(
        0.32
    )


def test_ece_bins_are_closed_on_the_right() -> None:
    """A confidence of exactly 0.6 = 9/15 and one a little above it lie in different bins, so errors
    do not cancel.
    """
    prob = torch.tensor([[9 / 15 - 1e-9, 6 / 15], [9 / 15 + 1e-9, 6 / 15]], dtype=torch.float64)
    assert calibration_sums(prob.log(), torch.tensor([0, 1])).bins[0].nonzero().squeeze(
        1
    ).tolist() == [8, 9]
    assert expected_calibration_error(prob.log(), torch.tensor([0, 1])) == pytest.approx(
        (0.4 + 0.6) / 2
    )
    certain = calibration_sums(torch.tensor([[1000.0, 0.0]]), torch.tensor([0]))
    assert certain.bins[:, -1].tolist() == [1.0, 1.0, 1.0]


def test_limits() -> None:
    perfect, labels = torch.tensor([[900.0, 0.0, 0.0], [0.0, 0.0, 900.0]]), torch.tensor([0, 2])
    for measure in (nll, brier_score, expected_calibration_error):
        assert measure(perfect, labels) == 0
    opposite = torch.tensor([1, 1])
    assert brier_score(perfect, opposite) == 2
    assert expected_calibration_error(perfect, opposite) == 1
    assert nll(perfect, opposite) == 900  # a logit's worth, not the logarithm of an underflow
    uniform = torch.zeros(5, 4)
    assert nll(uniform, torch.arange(5) % 4) == pytest.approx(math.log(4))
    assert brier_score(uniform, torch.arange(5) % 4) == pytest.approx(3 / 4)


def test_a_calibrated_predictor_has_a_small_ece() -> None:
    """Labels drawn from the predicted distributions; the scaled logits of the same model are
    over-confident.
    """
    logits, _ = data(20_000, seed=5)  # not the seed that the labels are drawn from
    labels = torch.distributions.Categorical(logits=logits).sample()
    assert expected_calibration_error(logits, labels) < 0.01
    assert expected_calibration_error(3 * logits, labels) > 0.1
    assert nll(logits, labels) < nll(3 * logits, labels)


def test_sums_over_batches_are_the_whole() -> None:
    logits, labels = data()
    whole = calibration_sums(logits, labels)
    parts = [calibration_sums(logits[i : i + 70], labels[i : i + 70]) for i in range(0, 300, 70)]
    streamed = parts[0] + parts[1] + parts[2] + parts[3] + parts[4]
    for name in ('mean_nll', 'mean_brier', 'ece', 'error'):
        assert getattr(streamed, name) == pytest.approx(getattr(whole, name), rel=1e-12)


def test_dense_predictions_and_masks() -> None:
    """(N, C, H, W) is (N·H·W, C); what is masked does not matter, NaN and the ignore index
    included.
    """
    logits, labels = data(2 * 3 * 5)
    dense, maps = logits.view(2, 3, 5, 4).permute(0, 3, 1, 2).clone(), labels.view(2, 3, 5).clone()
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    assert calibration_sums(dense, maps, mask).mean_nll == nll(logits, labels)
    mask[0, 0], mask[1, 2, 4] = False, False
    maps[~mask], dense[~mask[:, None].expand_as(dense)] = 255, math.nan
    keep = mask.view(-1)
    for measure in (nll, brier_score, expected_calibration_error):
        assert measure(dense, maps, mask) == pytest.approx(
            measure(logits[keep], labels[keep]), rel=1e-12
        )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    logits, labels = (100 * data()[0]).to(dtype), data()[1]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        low = calibration_sums(logits, labels)
    high = calibration_sums(logits.double(), labels)
    for name in ('mean_nll', 'mean_brier', 'ece'):
        assert getattr(low, name) == pytest.approx(getattr(high, name), rel=1e-5)


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        ((torch.zeros(2, 1), torch.zeros(2)), ValueError, r'two classes or more, got \(2, 1\)'),
        (
            (torch.zeros(2, 3), torch.zeros(3)),
            ValueError,
            r'labels must have the shape \(2,\) of logits \(2, 3\).*got \(3',
        ),
        (
            (torch.zeros(2, 3), torch.tensor([0, 255])),
            ValueError,
            r'ids \[255\], but .* 3 classes. Mend: mask=labels',
        ),
        (
            (torch.zeros(2, 3), torch.zeros(2), torch.ones(2)),
            TypeError,
            'mask must be a bool tensor',
        ),
        (
            (torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, dtype=torch.bool)),
            ValueError,
            'one labelled prediction or more, got none: every label is ignored',
        ),
    ],
)
def test_refusals(arguments: tuple[Any, ...], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        nll(*arguments)
