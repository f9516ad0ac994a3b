"""Does uncertainty find mistakes and foreign inputs: prediction-rejection ratio and AUROC."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score


def rejection_area(uncertainty: ArrayLike, wrong: ArrayLike) -> float:
    r"""Return the area under the error that is left as the most uncertain samples are rejected.

    The error is counted over all samples, rejected ones counting as right: an oracle takes them
    over. The curve is piecewise linear over the share rejected; samples of equal uncertainty are
    rejected in every order at once, so the area does not depend on how they are sorted.

    Args:
        uncertainty: (N,), larger means less certain.
        wrong: (N,), True where the prediction is wrong.

    Raises:
        ValueError: Lengths that differ, no samples, a NaN.

    >>> rejection_area([0.9, 0.1], [True, False])  # the error falls from 1/2 to 0 with the first
    0.125
    """
    values, errors = _arrays(uncertainty, wrong)
    order = np.argsort(-values, kind='stable')
    groups = np.flatnonzero(np.diff(values[order])) + 1  # of equals: where one ends
    ends = np.append(groups, len(values))
    left = errors.sum() - np.cumsum(errors[order])[ends - 1]
    share, error = np.append(0, ends) / len(values), np.append(errors.sum(), left) / len(values)
    return float((np.diff(share) * (error[1:] + error[:-1]) / 2).sum())


def prediction_rejection_ratio(uncertainty: ArrayLike, wrong: ArrayLike) -> float:
    r"""Return how far uncertainty goes from random rejection (0) to that of the mistakes (100).

    Paper: Malinin et al., Ensemble Distribution Distillation, ICLR 2020, arXiv 1905.00076, appendix
    B, by the ranks of all samples (the authors' code does; a later reproduction takes 100
    thresholds).

    .. math:: \mathrm{PRR} = 100 \cdot
              \frac{\mathrm{AUC}_{uns} - \mathrm{AUC}_{rnd}}{\mathrm{AUC}_{orc} -
              \mathrm{AUC}_{rnd}}

    AUC is :func:`rejection_area`; with error rate e, random rejection gives e/2 and the oracle
    e²/2.

    Args:
        uncertainty: (N,), larger means less certain.
        wrong: (N,), True where the prediction is wrong.

    Returns:
        At most 100, below 0 where certain predictions are the wrong ones; NaN where none or all are
        wrong.

    Raises:
        ValueError: as for :func:`rejection_area`.

    >>> prediction_rejection_ratio([0.9, 0.5, 0.2, 0.1], [True, False, False, False])
    100.0
    >>> prediction_rejection_ratio([0.5, 0.5, 0.5, 0.5], [True, False, False, False])
    0.0
    """
    error = float(_arrays(uncertainty, wrong)[1].mean())
    if error in (0.0, 1.0):
        return float('nan')
    random, oracle = error / 2, error**2 / 2
    return 100 * (random - rejection_area(uncertainty, wrong)) / (random - oracle)


def ood_auroc(uncertainty: ArrayLike, ood: ArrayLike) -> float:
    """Return the area under the ROC curve, 0 to 1, of telling foreign samples by uncertainty.

    Args:
        uncertainty: (N,), larger means further from the training data.
        ood: (N,), True for samples from elsewhere.

    Raises:
        ValueError: Lengths that differ, a NaN, samples of one kind only.

    >>> ood_auroc([0.1, 0.2, 0.9, 0.15], [False, False, True, True])  # 3 of the 4 pairs in order
    0.75
    """
    values, foreign = _arrays(uncertainty, ood)
    if foreign.all() or not foreign.any():
        kind = 'out of' if foreign.all() else 'in'
        raise ValueError(
            f'AUROC needs samples of both kinds, but all {len(foreign)} are {kind} distribution. '
            'Mend: a test set that joins both, the foreign samples with metainfo ood=True'
        )
    return float(roc_auc_score(foreign, values))


def _arrays(uncertainty: ArrayLike, marks: ArrayLike) -> tuple[Any, Any]:
    values, marked = np.asarray(uncertainty, np.float64), np.asarray(marks, bool)
    if values.ndim != 1 or values.shape != marked.shape or not len(values):
        raise ValueError(
            'uncertainty and its marks must be two lists of the same length, not empty, got the '
            f'shapes {values.shape} and {marked.shape}'
        )
    if np.isnan(values).any():
        raise ValueError(
            f'{int(np.isnan(values).sum())} of {len(values)} uncertainties are NaN, which have no '
            'rank. Mend: look for NaN in the logits'
        )
    return values, marked
