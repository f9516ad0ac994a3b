"""Values that change while training: functions of the step alone, so that resuming is exact."""

import inspect
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmkd.registry import SCHEDULES
from mmkd.utils.checks import check_choice, check_count, check_keys


class Schedule(ABC):
    """A value for every step; what every class in the registry ``SCHEDULES`` derives from.

    A class of one's own says ``begin`` and ``length`` and computes a value. It must not remember
    anything between two calls: a resumed run asks for the step that it goes on with.

    Attributes:
        begin: First step that counts, 0 or more.
        length: Steps from ``begin`` to the last value, which is held from there on; 1 or more.

    Examples:
        >>> class Square(Schedule):
        ...     def __init__(self, length: int, begin: int = 0) -> None:
        ...         self.length, self.begin = length, begin
        ...     def __call__(self, step: int) -> float:
        ...         return min(max((step - self.begin) / self.length, 0.0), 1.0) ** 2
        >>> Square(length=4)(2), Square(length=4).values()
        (0.25, {'lowest': 0.0, 'highest': 1.0})
    """

    begin: int
    length: int

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the value at ``step``, counted from 0."""

    def values(self) -> dict[str, float]:
        """Return values by name, between which all others lie: a target's checks look at them.

        Here all steps are asked. A class that knows its bounds returns them under the names of the
        arguments that set them, and errors name these.
        """
        values = [self(step) for step in range(self.begin, self.begin + self.length + 1)]
        # numpy's, which find a NaN wherever it stands
        return dict(lowest=float(np.min(values)), highest=float(np.max(values)))


@SCHEDULES.register_module(name='linear')
@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """A straight line from ``start`` to ``end``, both held before and after.

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
        for name, value in self.values().items():
            if not _is_finite_number(value):
                raise ValueError(f'{name} of a schedule must be a finite number, got {value!r}')
        _check_steps(self, 'a schedule')

    def __call__(self, step: int) -> float:
        """Return the value at ``step``."""
        share = self._bend(min(max((step - self.begin) / self.length, 0.0), 1.0))
        return self.start * (1 - share) + self.end * share  # exact at both ends

    def values(self) -> dict[str, float]:
        """Return both ends."""
        return dict(start=self.start, end=self.end)

    def _bend(self, share: float) -> float:
        return share


@SCHEDULES.register_module(name='cosine')
class Cosine(Linear):
    """Half a cosine from ``start`` to ``end``, flat at both; arguments as of :class:`Linear`.

    Examples:
        >>> schedule = Cosine(start=1., end=0., length=3)
        >>> [round(schedule(step), 4) for step in range(4)]
        [1.0, 0.75, 0.25, 0.0]
    """

    def _bend(self, share: float) -> float:
        return 0.5 - 0.5 * math.cos(math.pi * share)


@SCHEDULES.register_module(name='anneal')
@dataclass(frozen=True, kw_only=True)
class Anneal(Linear):
    """Temperature annealing of Ensemble Distribution Distillation: 10, then linearly down to 1.

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


@SCHEDULES.register_module(name='piecewise')
@dataclass(frozen=True, kw_only=True)
class Piecewise(Schedule):
    """Straight lines from point to point, the first and the last value held outside of them.

    Args:
        points: ``(step, value)`` each, two or more, the steps rising.

    Raises:
        ValueError: Fewer than two points, one that is no pair, steps that do not rise or are no
            whole numbers, a value that is no finite number.

    Examples:
        >>> schedule = Piecewise(points=[(0, 0.), (2, 3.), (6, 3.), (8, 0.)])
        >>> [schedule(step) for step in (0, 1, 2, 5, 7, 8, 99)]
        [0.0, 1.5, 3.0, 3.0, 1.5, 0.0, 0.0]
    """

    points: Sequence[Sequence[Any]]

    def __post_init__(self) -> None:
        _check_points(self.points)
        object.__setattr__(self, 'points', tuple(map(tuple, self.points)))

    @property
    def begin(self) -> int:  # type: ignore[override]
        """Step of the first point."""
        return self.points[0][0]

    @property
    def length(self) -> int:  # type: ignore[override]
        """Steps from the first point to the last."""
        return self.points[-1][0] - self.begin

    def __call__(self, step: int) -> float:
        """Return the value at ``step``."""
        after = bisect_right(self.points, step, key=lambda point: point[0])
        if after in (0, len(self.points)):
            return float(self.points[min(after, len(self.points) - 1)][1])
        (first, start), (last, end) = self.points[after - 1 : after + 1]
        share = (step - first) / (last - first)
        return float(start * (1 - share) + end * share)  # exact at both ends

    def values(self) -> dict[str, float]:
        """Return the value of each point."""
        return {f'points[{n}]': value for n, (_, value) in enumerate(self.points)}


def _check_points(points: Any) -> None:
    pairs = isinstance(points, list | tuple) and all(
        isinstance(point, list | tuple) and len(point) == 2 for point in points
    )
    if not pairs or len(points) < 2:
        raise ValueError(
            'points of a schedule must be two or more pairs (step, value), got '
            f'{points!r:.80}. Mend: points=[(0, 0.0), (2000, 1.0)]'
        )
    for n, (step, value) in enumerate(points):
        check_count(f'step of points[{n}] of a schedule', step, 0)
        if not _is_finite_number(value):
            raise ValueError(f'points[{n}] of a schedule must be a finite number, got {value!r}')
    steps = [step for step, _ in points]
    if any(later <= earlier for earlier, later in zip(steps, steps[1:], strict=False)):
        raise ValueError(
            f'the steps of points of a schedule must rise, got {steps}. Mend: each one later than '
            'the one before'
        )


def build_schedule(config: dict[str, Any], where: str = 'a schedule') -> Schedule:
    """Build a schedule from ``dict(type='linear', start=…, end=…, length=…, begin=…)``.

    >>> build_schedule(dict(type='anneal', length=20))(10)
    5.5

    Args:
        config: Its type, a name in ``SCHEDULES`` or a class, and its arguments.
        where: How errors call it.

    Raises:
        ValueError: An unknown type or a bad value.
        TypeError: An unknown key, with its nearest match, or one that is missing; a class that is
            no :class:`Schedule`.
    """
    config = dict(config)
    kind = config.pop('type', None)
    made = _class_of(kind, where)
    _check_class(made, where)
    _check_arguments(made, config, kind, where)
    schedule = made(**config)
    _check_steps(schedule, where)
    return schedule


def _class_of(kind: Any, where: str) -> Any:
    if isinstance(kind, type):
        return kind
    if isinstance(kind, str) and '.' in kind:  # an unregistered class, as a config is written out
        with suppress(RuntimeError):
            return SCHEDULES.get(kind)
    check_choice(f'type of {where}', kind, SCHEDULES.module_dict)
    return SCHEDULES.get(kind)


def _check_class(made: Any, where: str) -> None:
    if not (isinstance(made, type) and issubclass(made, Schedule)):
        name = getattr(made, '__name__', 'Mine')
        raise TypeError(
            f'{where} must be a Schedule, got {made!r}. Mend: class {name}(Schedule), of '
            'mmkd.engine.schedules'
        )


def _check_arguments(made: type, config: dict[str, Any], kind: Any, where: str) -> None:
    parameters = inspect.signature(made).parameters
    if all(one.kind != one.VAR_KEYWORD for one in parameters.values()):
        check_keys(config, parameters, where)
    missing = [
        name
        for name, one in parameters.items()
        if one.default is one.empty
        and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        and name not in config
    ]
    if missing:
        raise TypeError(f'{where} of type {kind!r} also needs {missing}. Mend: {missing[0]}=…')


def _check_steps(schedule: Schedule, where: str) -> None:
    for name, least in (('length', 1), ('begin', 0)):
        value: Any = getattr(schedule, name, None)
        check_count(f'{name} of {where}', value, least)


def _is_finite_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
