"""Running statistics of an ensemble: memory does not grow with the number of members."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.checks import OTHER_CLASSES, check_mask, shape_of
from mmkd.losses.functional import no_autocast
from mmkd.utils.checks import check_fraction, check_positive


class EnsembleStatistics:
    r"""Mean probability and mean log-probability over the members of an ensemble, member by member.

    Paper: Malinin et al., Ensemble Distribution Distillation, ICLR 2020, arXiv 1905.00076. Its
    losses read of the members no more than these two means (the mean of ln π is the logarithm of
    their geometric mean).

    .. math:: \pi^{(m)} = (1-\epsilon)\,\mathrm{softmax}(z^{(m)} / T) + \epsilon / K, \quad
              \bar\pi = \frac1M \sum_m \pi^{(m)}, \quad \overline{\ln\pi} = \frac1M \sum_m \ln
              \pi^{(m)}

    The authors' code writes the smoothing as (1−ε)(π − 1/K) + 1/K, which is the same. Sums are kept
    in float64 and without gradient. Classes are on axis 1 and positions do not mix: NaN at one
    position stays there.

    Args:
        temperature: T.
        smoothing: ε in [0, 1).

    Attributes:
        count: How many members were seen, M.

    Raises:
        ValueError: T is not above 0, ε not in [0, 1).

    Examples:
        >>> statistics = EnsembleStatistics()
        >>> statistics.update(torch.tensor([[1., 3.]]).log())  # π = (1/4, 3/4)
        >>> statistics.update(torch.tensor([[3., 1.]]).log())
        >>> statistics.mean_prob, statistics.mean_log_prob.exp() ** 2  # 3/16 = 1/4 · 3/4
        (tensor([[0.5000, 0.5000]], dtype=torch.float64), tensor([[0.1875, 0.1875]],
        dtype=torch.float64))
    """

    def __init__(self, temperature: float = 1.0, smoothing: float = 0.0) -> None:
        check_positive('temperature', temperature)
        check_fraction('smoothing', smoothing)
        self.temperature, self.smoothing = temperature, smoothing
        self.count = 0
        self._sum_prob: Tensor | None = None
        self._sum_log_prob: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        r"""Shape (M, N, C, \*S) of the members seen so far."""
        return torch.Size((self.count, *(() if self._sum_prob is None else self._sum_prob.shape)))

    @property
    def mean_prob(self) -> Tensor:
        r"""Mean of π over the members, (N, C, \*S), float64."""
        return self._mean(self._sum_prob)

    @property
    def mean_log_prob(self) -> Tensor:
        r"""Mean of ln π over the members, (N, C, \*S), float64."""
        return self._mean(self._sum_log_prob)

    @torch.no_grad()
    def update(self, logits: Tensor) -> None:
        r"""Take in one member.

        Args:
            logits: (N, C, \*S).

        Raises:
            ValueError: No logits of two classes or more, or another shape than the members before.
        """
        self._check(logits)
        with no_autocast(logits):
            # log_softmax keeps every digit of ln π where π itself would round to 0.
            log_prob = F.log_softmax(logits.double() / self.temperature, 1)
            prob = log_prob.exp()
            if self.smoothing:
                prob = prob.mul_(1 - self.smoothing).add_(self.smoothing / logits.shape[1])
                log_prob = prob.log()
        if self._sum_prob is None or self._sum_log_prob is None:
            self._sum_prob, self._sum_log_prob = prob, log_prob
        else:
            self._sum_prob += prob
            self._sum_log_prob += log_prob
        self.count += 1

    def _mean(self, total: Tensor | None) -> Tensor:
        if total is None:
            raise ValueError(
                'these ensemble statistics have seen no member. Mend: update(logits) once a member'
            )
        return total / self.count

    def _check(self, logits: Tensor) -> None:
        if logits.dim() < 2:
            raise ValueError(
                f'a member of an ensemble gives logits (N, C, *S), got {shape_of(logits)}. Mend: '
                'stack the members to teachers (M, N, C, *S)'
            )
        if logits.shape[1] == 1:
            raise ValueError(
                'softmax over a single class is always 1, so an ensemble of it says nothing: '
                f'{shape_of(logits)}. Mend: give the members a background class'
            )
        expected = self.shape[1:]
        if not self.count or logits.shape == expected:
            return
        shapes = f'{tuple(expected)} before, now {shape_of(logits)}'
        if len(expected) == logits.dim() and expected[1] != logits.shape[1]:
            raise ValueError(
                f'the members of an ensemble disagree on classes: member {self.count + 1} has '
                f'{logits.shape[1]}, those before it have {expected[1]} ({shapes}). Mend: members '
                'trained on the same classes'
            )
        raise ValueError(
            f'the members of an ensemble differ in shape: member {self.count + 1} has '
            f'{shape_of(logits)} ({shapes}). Mend: tap every member where its logits have the same '
            'size'
        )


def read_ensemble(
    student: Tensor,
    teachers: Tensor | Iterable[Tensor] | EnsembleStatistics,
    temperature: float = 1.0,
    smoothing: float = 0.0,
    mask: Tensor | None = None,
) -> EnsembleStatistics:
    r"""Return the statistics of the members, checked against student and mask.

    Args:
        student: Logits (N, C, \*S).
        teachers: Logits of all members (M, N, C, \*S), or statistics that saw them member by
            member.
        temperature: T of the statistics.
        smoothing: ε of the statistics.
        mask: Bool (N, \*S).

    Raises:
        ValueError: Fewer than two members, shapes that do not fit, statistics of another
            temperature or smoothing.
        TypeError: a mask that is not bool.
    """
    if isinstance(teachers, EnsembleStatistics):
        statistics = teachers
        _check_taken_at(statistics, temperature, smoothing)
    else:
        statistics = EnsembleStatistics(temperature, smoothing)
        for member in teachers:
            statistics.update(member)
    _check_student(student, statistics)
    check_mask(mask, student)
    return statistics


def _check_taken_at(statistics: EnsembleStatistics, temperature: float, smoothing: float) -> None:
    at = statistics.temperature, statistics.smoothing
    if all(map(math.isclose, at, (temperature, smoothing))):
        return
    raise ValueError(
        f'the statistics were taken at temperature={at[0]}, smoothing={at[1]}, this loss needs '
        f'temperature={temperature}, smoothing={smoothing}. Mend: statistics = loss.running()'
    )


def _check_student(student: Tensor, statistics: EnsembleStatistics) -> None:
    shapes = f'student {shape_of(student)}, teachers {tuple(statistics.shape)}'
    if statistics.count < 2:
        raise ValueError(
            f'an ensemble needs two members or more, got {statistics.count} ({shapes}); the '
            'disagreement of one member is 0. Mend: a second teacher and '
            "reads=dict(teachers='t*.logits'), or plain distillation of one teacher by "
            'PixelWiseKLLoss'
        )
    expected = statistics.shape[1:]
    if student.dim() == len(expected) and student.shape[1] != expected[1]:
        raise ValueError(
            f'student has {student.shape[1]} classes but the ensemble has {expected[1]} '
            f'({shapes}). {OTHER_CLASSES}'
        )
    if student.shape != expected:
        raise ValueError(
            f'student and members differ in shape: {shapes}, expected student (N, C, *S) and '
            "teachers (M, N, C, *S). Mend: connectors=dict(student='auto') resizes the student"
        )
