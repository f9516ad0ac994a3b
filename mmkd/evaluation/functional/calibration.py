"""Calibration: how well predicted probabilities agree with what happens."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.base import check_mask, no_autocast, shape_of, widen

BINS = 15


@dataclass(frozen=True)
class CalibrationSums:
    """What NLL, Brier score, ECE and error need of predictions: 4 + 3·15 numbers, which add up.

    Args:
        count: Predictions that count.
        nll: Sum of −ln p of the right class.
        brier: Sum of squared distances to the one-hot truth.
        wrong: Predictions whose most likely class is not the right one.
        bins: (3, 15): predictions, summed confidence and right predictions in each bin of
            confidence.

    Examples:
        >>> half = calibration_sums(torch.zeros(2, 2), torch.tensor([0, 0]))
        >>> (half + half).count, (half + half).mean_nll == half.mean_nll
        (4.0, True)
    """

    count: float
    nll: float
    brier: float
    wrong: float
    bins: Tensor

    def __add__(self, other: 'CalibrationSums') -> 'CalibrationSums':
        return CalibrationSums(
            self.count + other.count,
            self.nll + other.nll,
            self.brier + other.brier,
            self.wrong + other.wrong,
            self.bins + other.bins,
        )

    @property
    def mean_nll(self) -> float:
        """Mean negative log-likelihood, nats."""
        return self.nll / self._checked_count

    @property
    def mean_brier(self) -> float:
        """Mean Brier score over all classes, from 0 to 2."""
        return self.brier / self._checked_count

    @property
    def error(self) -> float:
        """Share of wrong predictions."""
        return self.wrong / self._checked_count

    @property
    def ece(self) -> float:
        """Expected calibration error, from 0 to 1."""
        _, confidence, right = self.bins
        return float((confidence - right).abs().sum() / self._checked_count)

    @property
    def _checked_count(self) -> float:
        if not self.count:
            raise ValueError(
                'calibration needs one labelled prediction or more, got none: every label is '
                'ignored or every sample is out of distribution. Mend: check ignore_index and the '
                'data set'
            )
        return self.count


def calibration_sums(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> CalibrationSums:
    r"""Sum what NLL, Brier score and ECE average, batch by batch.

    Args:
        logits: (N, C, \*S); log-probabilities serve as well.
        labels: Class ids (N, \*S).
        mask: Bool (N, \*S), True where a position counts; labels elsewhere may be anything.

    Raises:
        ValueError: Shapes that do not fit, a single class, a label that no class has.
        TypeError: A mask that is not bool.
    """
    _check(logits, labels, mask)
    with no_autocast(logits):
        log_prob = F.log_softmax(widen(logits)[0], 1).movedim(1, -1)
        keep = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
        log_prob, labels = log_prob[keep], labels[keep].long()
        wrong_ids = (labels < 0) | (labels >= log_prob.shape[1])
        if wrong_ids.any():
            raise ValueError(
                f'labels hold the ids {labels[wrong_ids].unique().tolist()[:8]}, but the logits '
                f'have {log_prob.shape[1]} classes. Mend: mask=labels != ignore_index'
            )
        picked = log_prob.gather(1, labels[:, None]).squeeze(1).double()
        prob = log_prob.exp()
        # Σ_c (p_c − y_c)² = Σ_c p_c² − 2 p_y + 1
        brier = prob.square().sum(1, dtype=torch.float64) - 2 * picked.exp() + 1
        confidence, predicted = prob.max(1)
        right = (predicted == labels).double()
        # Bins are closed on the right, ((b − 1)/15, b/15], as in Guo et al.
        index = ((confidence.double() * BINS).ceil().long() - 1).clamp(0, BINS - 1)
        bins = torch.stack(
            [
                torch.bincount(index, weights, BINS)
                for weights in (torch.ones_like(right), confidence.double(), right)
            ]
        ).cpu()
    return CalibrationSums(
        float(len(labels)),
        -float(picked.sum()),
        float(brier.sum()),
        float(len(labels) - right.sum()),
        bins,
    )


def nll(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> float:
    r"""Return the negative log-likelihood in nats, averaged over the positions that count.

    .. math:: \mathrm{NLL} = -\frac{1}{|V|} \sum_{i \in V} \ln \mathrm{softmax}(z_i)_{y_i}

    Args and Raises: as for :func:`calibration_sums`.

    >>> round(nll(torch.tensor([[1., 3.]]).log(), torch.tensor([0])), 4)  # ln 4
    1.3863
    """
    return calibration_sums(logits, labels, mask).mean_nll


def brier_score(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> float:
    r"""Return the Brier score, summed over classes (0 to 2), averaged over what counts.

    .. math:: \mathrm{Brier} = \frac{1}{|V|} \sum_{i \in V} \sum_c (p_{ic} - [c = y_i])^2

    Args and Raises: as for :func:`calibration_sums`.

    >>> round(brier_score(torch.tensor([[1., 3.]]).log(), torch.tensor([0])), 4)  # (3/4)² + (3/4)²
    1.125
    """
    return calibration_sums(logits, labels, mask).mean_brier


def expected_calibration_error(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> float:
    r"""Return the expected calibration error over 15 bins of equal width, from 0 to 1.

    Paper: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599, eq. 3.
    The value depends on the number of bins: 15 is theirs, other work on ensembles prints 100.

    .. math:: \mathrm{ECE} = \sum_{b=1}^{15} \frac{|B_b|}{|V|}
              |\mathrm{acc}(B_b) - \mathrm{conf}(B_b)|, \quad
              B_b = \{i : \max_c p_{ic} \in ((b - 1)/15, b/15]\}

    Args and Raises: as for :func:`calibration_sums`.

    >>> logits = torch.tensor([[1., 3.]]).log()
    >>> round(expected_calibration_error(logits, torch.tensor([0])), 4)  # |0 − 3/4|
    0.75
    """
    return calibration_sums(logits, labels, mask).ece


def _check(logits: Tensor, labels: Tensor, mask: Tensor | None) -> None:
    if logits.dim() < 2 or logits.shape[1] < 2:
        raise ValueError(
            f'calibration needs logits (N, C, *S) of two classes or more, got {shape_of(logits)}'
        )
    expected = (logits.shape[0], *logits.shape[2:])
    if labels.shape != expected:
        raise ValueError(
            f'labels must have the shape {expected} of logits {shape_of(logits)} without their '
            f'classes, got {shape_of(labels)}'
        )
    check_mask(mask, logits)
