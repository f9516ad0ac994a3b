"""Running statistics of an ensemble: memory does not grow with the number of members."""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.checks import OTHER_CLASSES, check_mask, shape_of
from mmkd.losses.functional import no_autocast
from mmkd.utils.checks import check_choice, check_fraction, check_positive

MEANS = ('prob', 'log_prob')


class EnsembleStatistics:
    r"""Mean probability and mean log-probability over the members of an ensemble, member by member.

    Paper: Malinin et al., Ensemble Distribution Distillation, ICLR 2020, arXiv 1905.00076. Its
    losses read of the members no more than these two means (the mean of ln π is the logarithm of
    their geometric mean).

    .. math:: \pi^{(m)} = (1-\epsilon)\,\mathrm{softmax}(z^{(m)} / T) + \epsilon / K, \quad
              \bar\pi = \frac1M \sum_m \pi^{(m)}, \quad \overline{\ln\pi} = \frac1M \sum_m \ln
              \pi^{(m)}

    The authors' code writes the smoothing as (1−ε)(π − 1/K) + 1/K, which is the same. Means are
    kept in float64 and without gradient. Classes are on axis 1 and positions do not mix: NaN at one
    position stays there.

    Args:
        temperature: T.
        smoothing: ε in [0, 1).
        means: Which of them are kept, 'prob' and 'log_prob'; a loss that reads one needs no other.

    Attributes:
        count: How many members were seen, M.

    Raises:
        ValueError: T is not above 0, ε not in [0, 1), no such mean.

    Examples:
        >>> statistics = EnsembleStatistics()
        >>> statistics.update(torch.tensor([[1., 3.]]).log())  # π = (1/4, 3/4)
        >>> statistics.update(torch.tensor([[3., 1.]]).log())
        >>> statistics.mean_prob, statistics.mean_log_prob.exp() ** 2  # 3/16 = 1/4 · 3/4
        (tensor([[0.5000, 0.5000]], dtype=torch.float64), tensor([[0.1875, 0.1875]],
        dtype=torch.float64))
    """

    def __init__(
        self, temperature: float = 1.0, smoothing: float = 0.0, means: Sequence[str] = MEANS
    ) -> None:
        check_positive('temperature', temperature)
        check_fraction('smoothing', smoothing)
        for mean in means:
            check_choice('each of means', mean, MEANS)
        self.temperature, self.smoothing, self.means = temperature, smoothing, tuple(means)
        self.count = 0
        self._prob: Tensor | None = None
        self._log_prob: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        r"""Shape (M, N, C, \*S) of the members seen so far."""
        return torch.Size((self.count, *(self.example.shape if self.count else ())))

    @property
    def example(self) -> Tensor:
        r"""One of the means that are kept, (N, C, \*S): its shape is that of a member."""
        return self._kept(self.means[0])

    @property
    def mean_prob(self) -> Tensor:
        r"""Mean of π over the members, (N, C, \*S), float64; not to be written to."""
        return self._kept('prob')

    @property
    def mean_log_prob(self) -> Tensor:
        r"""Mean of ln π over the members, (N, C, \*S), float64; not to be written to."""
        return self._kept('log_prob')

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
            z = logits.to(torch.float64, copy=True).div_(self.temperature)
            # log_softmax keeps every digit of ln π where π itself would round to 0.
            log_prob = F.log_softmax(z, 1)
            prob = z
            if self.smoothing or 'prob' in self.means:
                torch.exp(log_prob, out=prob)
            if self.smoothing:
                prob.mul_(1 - self.smoothing).add_(self.smoothing / logits.shape[1])
                torch.log(prob, out=log_prob)
        self.count += 1
        if 'prob' in self.means:
            self._prob = self._with(self._prob, prob)
        if 'log_prob' in self.means:
            self._log_prob = self._with(self._log_prob, log_prob)

    def _with(self, mean: Tensor | None, x: Tensor) -> Tensor:
        """Return a mean that has seen one more."""
        if mean is None:
            return x
        return mean.mul_(1 - 1 / self.count).add_(x, alpha=1 / self.count)

    def _kept(self, name: str) -> Tensor:
        if not self.count:
            raise ValueError(
                'these ensemble statistics have seen no member. Mend: update(logits) once a member'
            )
        mean = dict(prob=self._prob, log_prob=self._log_prob)[name]
        if mean is None:
            raise ValueError(
                f'these ensemble statistics keep the means of {self.means} alone, not that of '
                f'{name!r}. Mend: EnsembleStatistics(means={MEANS})'
            )
        return mean

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
    means: Sequence[str] = MEANS,
) -> EnsembleStatistics:
    r"""Return the statistics of the members, checked against student and mask.

    Args:
        student: Logits (N, C, \*S).
        teachers: Logits of all members (M, N, C, \*S), or statistics that saw them member by
            member.
        temperature: T of the statistics.
        smoothing: ε of the statistics.
        mask: Bool (N, \*S).
        means: Which of them are read.

    Raises:
        ValueError: Fewer than two members, shapes that do not fit, statistics of another
            temperature or smoothing.
        TypeError: a mask that is not bool.
    """
    if isinstance(teachers, EnsembleStatistics):
        statistics = teachers
        _check_taken_at(statistics, temperature, smoothing)
    else:
        statistics = EnsembleStatistics(temperature, smoothing, means)
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
