"""Divergences of two class distributions p, q: Kullback-Leibler both ways, Jensen-Shannon, α-β."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.functional import infinite_to_nan
from mmkd.utils.checks import check_choice, check_non_negative

Direction = str | Sequence[Any]
NAMED = ('forward', 'reverse', 'js')
ALPHA_BETA = 'alpha-beta'


def check_direction(direction: Direction) -> None:
    """Refuse what names no divergence.

    Raises:
        ValueError: It is neither one of the names nor ('alpha-beta', α, β) with α, β of 0 or above,
            not both 0.

    >>> check_direction(('alpha-beta', 0.5, 0.5))
    """
    if isinstance(direction, str) or not isinstance(direction, Sequence):
        if direction == ALPHA_BETA:
            raise ValueError("direction 'alpha-beta' needs both: ('alpha-beta', 0.5, 0.5)")
        check_choice('direction', direction, (*NAMED, (ALPHA_BETA, 'α', 'β')))
        return
    if len(direction) != 3 or direction[0] != ALPHA_BETA:
        raise ValueError(
            f"direction must be one of {NAMED} or ('alpha-beta', α, β), got {direction!r}"
        )
    powers: Sequence[Any] = direction[1:]
    for name, power in zip('αβ', powers, strict=True):
        check_non_negative(f'{name} of direction', power)
    if not any(powers):
        raise ValueError('direction needs α or β above 0, got both 0')


def divergence(log_s: Tensor, log_t: Tensor, direction: Direction) -> Tensor:
    r"""Return what each class adds to the divergence of student and teacher, (N, C, \*S).

    Equal logarithms add exactly 0.

    Args:
        log_s: Log-probabilities (N, C, \*S) of the student.
        log_t: The same of the teacher.
        direction: 'forward' KL(teacher‖student), 'reverse' KL(student‖teacher), 'js' the mean of
            both KL to the mean distribution, or ('alpha-beta', α, β), see :func:`alpha_beta`.
    """
    if not isinstance(direction, str):
        return alpha_beta(log_t, infinite_to_nan(log_s), *direction[1:])
    if direction == 'js':
        return jensen_shannon(log_t, log_s)
    approximation, target = (log_s, log_t) if direction == 'forward' else (log_t, log_s)
    return F.kl_div(approximation, target, reduction='none', log_target=True)


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the terms of (KL(p‖m) + KL(q‖m)) / 2, m = (p + q) / 2; their sum is at most ln 2.

    >>> jensen_shannon(torch.tensor([[1., 1e-30]]).log(), torch.tensor([[1e-30, 1.]]).log())
    tensor([[0.3466, 0.3466]])
    """
    gap = log_q - log_p
    zero = gap.new_zeros(())
    # ln p − ln m = ln 2 − ln(1 + q / p), exactly 0 where they are equal
    to_p, to_q = (math.log(2) - torch.logaddexp(zero, x) for x in (gap, -gap))
    return (log_p.exp() * to_p + log_q.exp() * to_q) / 2


def alpha_beta(log_p: Tensor, log_q: Tensor, alpha: float, beta: float) -> Tensor:
    r"""Return the terms of the α-β divergence, none of which is below 0.

    Wang et al., ABKD, ICML 2025, arXiv 2505.04560:

    .. math:: -\frac{1}{\alpha \beta} \sum_c \left[ p^\alpha q^\beta
              - \frac{\alpha}{\alpha + \beta} p^{\alpha + \beta}
              - \frac{\beta}{\alpha + \beta} q^{\alpha + \beta} \right]

    (1, 0) is KL(p‖q), (0, 1) KL(q‖p), (1, 1) half the squared distance, (½, ½) twice that of the
    square roots.

    >>> p, q = torch.tensor([[.25, .75]]).log(), torch.tensor([[.5, .5]]).log()
    >>> alpha_beta(p, q, 1, 0).sum(), alpha_beta(p, q, 1, 1)  # KL; 1/16 / 2 each
    (tensor(0.1308), tensor([[0.0312, 0.0312]]))
    """
    # Written as differences p^β − q^β, so that no α or β, 0 included, divides what has cancelled.
    ratio = log_p - log_q
    from_p = (alpha * log_p).exp() * _power_gap(log_p, log_q, ratio, beta)
    from_q = (beta * log_q).exp() * _power_gap(log_q, log_p, -ratio, alpha)
    return (from_p + from_q) / (alpha + beta)


def _power_gap(log_a: Tensor, log_b: Tensor, ratio: Tensor, power: float) -> Tensor:
    """Return (a^x − b^x) / x, at x = 0 its limit ln a − ln b."""
    if power == 0:
        return ratio
    # expm1 of what is not above 0: it cannot overflow, and keeps its digits near equality.
    below = torch.expm1(power * ratio.clamp(max=0))
    above = -torch.expm1(-power * ratio.clamp(min=0))
    larger = log_a.where(ratio > 0, log_b)
    return (power * larger).exp() * above.where(ratio > 0, below) / power
