"""Schedules: pure functions from a step to a value, so that a resumed run needs no state to go on exactly."""

import math
from dataclasses import dataclass
from typing import Any

from mmkd.engine.schedules.levels import Progressive as Progressive
from mmkd.engine.schedules.levels import Stacked as Stacked
from mmkd.utils.checks import check_choice, check_count, check_keys


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A straight line from ``start`` at step ``begin`` to ``end`` at ``begin + length``, held before and after.

    Args:
        start: Value up to ``begin``.
        end: Value from ``begin + length`` on.
        length: Steps between the two, 1 or more.
        begin: First step that counts.

    Raises:
        ValueError: A value is not a finite number, or a step is no whole number or too small.

    Examples:
        >>> schedule = Linear(start=0., end=1., begin=10, length=4)
        >>> [schedule(step) for step in (0, 10, 11, 12, 14, 99)]
        [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    """

    start: float
    end: float
    length: int
    begin: int = 0

    def __post_init__(self) -> None:
        for name in ('start', 'end'):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not math.isfinite(value)
            ):
                raise ValueError(f'{name} of a schedule must be a finite number, got {value!r}')
        check_count('length of a schedule', self.length, 1)
        check_count('begin of a schedule', self.begin, 0)

    def __call__(self, step: int) -> float:
        """Return the value at ``step``."""
        share = self._bend(min(max((step - self.begin) / self.length, 0.0), 1.0))
        return self.start * (1 - share) + self.end * share  # exact at both ends

    def _bend(self, share: float) -> float:
        return share


class Cosine(Linear):
    """Half a cosine from ``start`` to ``end``, flat at both; arguments as of :class:`Linear`.

    Examples:
        >>> schedule = Cosine(start=1., end=0., length=3)
        >>> [round(schedule(step), 4) for step in range(4)]
        [1.0, 0.75, 0.25, 0.0]
    """

    def _bend(self, share: float) -> float:
        return 0.5 - 0.5 * math.cos(math.pi * share)


@dataclass(frozen=True, kw_only=True)
class Anneal(Linear):
    """Temperature annealing of Ensemble Distribution Distillation: 10 up to ``begin``, then linearly down to 1.

    Paper: Malinin et al., ICLR 2020, arXiv 1905.00076. Of 90 epochs a reproduction holds 10 for 30,
    descends in 30 and holds 1 for 30: ``begin`` and ``length`` are a third of the run each. The
    authors' code steps once an epoch, this once a step.

    Examples:
        >>> schedule = Anneal(begin=30, length=30)
        >>> [schedule(step) for step in (0, 30, 45, 60, 90)]
        [10.0, 10.0, 5.5, 1.0, 1.0]
    """

    start: float = 10.0
    end: float = 1.0


SCHEDULES: dict[str, type[Linear]] = {'linear': Linear, 'cosine': Cosine, 'anneal': Anneal}


def build_schedule(config: dict[str, Any], where: str = 'a schedule') -> Linear:
    """Build a schedule from ``dict(type='linear' | 'cosine' | 'anneal', start=…, end=…, length=…, begin=…)``.

    >>> build_schedule(dict(type='anneal', length=20))(10)
    5.5

    Args:
        config: Its type and arguments.
        where: How errors call it.

    Raises:
        ValueError: An unknown type or a bad value.
        TypeError: An unknown key, with its nearest match, or one that is missing.
    """
    config = dict(config)
    kind = config.pop('type', None)
    check_choice(f'type of {where}', kind, SCHEDULES)
    check_keys(config, ('start', 'end', 'length', 'begin'), where)
    needed = ('length',) if kind == 'anneal' else ('start', 'end', 'length')
    missing = [key for key in needed if key not in config]
    if missing:
        raise TypeError(f'{where} of type {kind!r} also needs {missing}. Mend: {missing[0]}=…')
    return SCHEDULES[kind](**config)
