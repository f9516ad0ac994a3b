"""Levels: which objectives a stage of the training learns from, and when it ends; all pure."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from mmkd.registry import LEVELS
from mmkd.utils.checks import check_choice, check_count, check_keys, check_positive

TASK = 'task'  # in a level: the students' own losses


@LEVELS.register_module(name='progressive')
@dataclass(frozen=True)
class Progressive:
    """One level at a time, from the first to the last; the base of every order of levels.

    An order of one's own derives from it, joins the registry ``LEVELS`` and has its own ``choose``.

    Paper: Aguilar et al., Knowledge Distillation from Internal Representations, AAAI 2020, arXiv
    1910.03723, progressive internal distillation (PID): layers from the bottom up, then the
    classification.

    Args:
        levels: Names of objectives, level by level.

    Raises:
        ValueError: Fewer than two levels, an empty one, a name in two of them.

    Examples:
        >>> schedule = Progressive(levels=[['layer1'], ['layer2'], ['soft', 'task']])
        >>> [sorted(schedule.active(level)) for level in range(3)]
        [['layer1'], ['layer2'], ['soft', 'task']]
    """

    levels: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        _check_lists(self.levels)
        _check_once(self.names)

    @property
    def names(self) -> list[str]:
        """All names, from the first level to the last."""
        return [name for level in self.levels for name in level]

    def active(self, level: int) -> set[str]:
        """Return the names of a level, counted from 0.

        Raises:
            IndexError: There is no such level.
        """
        if not 0 <= level < len(self.levels):
            raise IndexError(f'level {level} of {len(self.levels)}, counted from 0')
        return self.choose(level)

    def choose(self, level: int) -> set[str]:
        """Return the names of a level that exists."""
        return set(self.levels[level])


@LEVELS.register_module(name='stacked')
@dataclass(frozen=True)
class Stacked(Progressive):
    """The levels so far together; at the last one that one alone.

    Paper: as of :class:`Progressive`, stacked internal distillation (SID): 1 → 1+2 → 1+2+3 → the
    classification.

    Examples:
        >>> schedule = Stacked(levels=[['layer1'], ['layer2'], ['soft']])
        >>> [sorted(schedule.active(level)) for level in range(3)]
        [['layer1'], ['layer1', 'layer2'], ['soft']]
    """

    def choose(self, level: int) -> set[str]:
        """Return the names of all levels so far, or of the last one."""
        last = level == len(self.levels) - 1
        return {name for names in self.levels[level if last else 0 : level + 1] for name in names}


def _check_lists(levels: Sequence[Sequence[str]]) -> None:
    texts = any(isinstance(level, str) for level in levels)
    if len(levels) < 2 or not all(levels) or texts:
        raise ValueError(
            f'levels must be two or more lists of names, got {levels!r}. Mend: '
            "levels=[['attention1', 'cosine1'], …, ['soft', 'task']]"
        )


def _check_once(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'levels name {twice} twice. Mend: each name in the level where it begins')


@dataclass(frozen=True)
class LevelState:
    """Where a training stands; all that a resumed run needs.

    Args:
        level: The current level, from 0.
        begin: The iteration that it began with.
        total: Sum of the watched value over the iterations of the current window.
        count: How many these are.
    """

    level: int = 0
    begin: int = 0
    total: float = 0.0
    count: int = 0


@dataclass(frozen=True)
class LevelPlan:
    """Which level an iteration belongs to: a function of state, iteration and logged values.

    A level ends after ``length`` iterations, or as soon as the mean of what is watched, over
    ``window`` iterations, is below ``threshold``, whichever comes first. The last level stays.

    Args:
        schedule: Progressive or Stacked.
        length: Iterations of each level but the last.
        watch: Names of objectives, with wildcards, whose losses are watched, those of the current
            level alone.
        threshold: Of the mean of the watched losses, without their weights; None: only ``length``
            ends a level.
        window: Iterations that a mean is taken over.
    """

    schedule: Progressive
    length: Sequence[int]
    watch: str = 'cos*'
    threshold: float | None = None
    window: int = 50

    def __post_init__(self) -> None:
        for number in self.length:
            check_count('length of a level', number, 1)
        check_count('window of levels', self.window, 1)
        if self.threshold is not None:
            check_positive('threshold of levels', self.threshold)
            self._check_watched()

    def _check_watched(self) -> None:
        for level, names in enumerate(self.schedule.levels[:-1]):
            if not self.watched(level):
                raise ValueError(
                    f'levels: a threshold is given, but watch={self.watch!r} matches nothing in '
                    f"{list(names)}. Mend: watch='cos*' and objectives of such names, or no "
                    'threshold'
                )

    def is_last(self, level: int) -> bool:
        """Return whether a level is the one that stays."""
        return level == len(self.schedule.levels) - 1

    def watched(self, level: int) -> list[str]:
        """Return the objectives whose losses decide; none on the last level, or by length alone."""
        if self.threshold is None or self.is_last(level):
            return []
        names = self.schedule.levels[level]
        return [name for name in names if name != TASK and fnmatchcase(name, self.watch)]

    def advance(self, state: LevelState, step: int, value: float | None) -> tuple[LevelState, str]:
        """Return the state after iteration ``step``, and why a level ended, if one did.

        Args:
            state: Where the training stood before it.
            step: The iteration, from 0.
            value: Mean of what is watched in it; None where nothing is.

        >>> plan = LevelPlan(Progressive([['cos1'], ['soft']]), length=[9], threshold=.1, window=2)
        >>> state, why = plan.advance(LevelState(total=.1, count=1), 1, .08)
        >>> state.level, state.begin, why
        (1, 2, 'the mean of cos1 over 2 iterations, 0.09, is below 0.1')
        """
        if self.is_last(state.level):
            return state, ''
        if value is not None:
            state = replace(state, total=state.total + value, count=state.count + 1)
        following = LevelState(state.level + 1, step + 1)
        if self.threshold is not None and state.count == self.window:
            mean = state.total / state.count
            if mean < self.threshold:
                names = ', '.join(self.watched(state.level))
                over = f'{state.count} iterations'
                return following, (
                    f'the mean of {names} over {over}, {mean:.4g}, is below {self.threshold:g}'
                )
            state = replace(state, total=0.0, count=0)
        if step + 1 - state.begin >= self.length[state.level]:
            return following, f'its {self.length[state.level]} iterations are over'
        return state, ''


def build_levels(config: dict[str, Any]) -> LevelPlan:
    """Build a plan from ``dict(type='progressive', levels=…, length=…, watch=…, …)``.

    >>> build_levels(dict(type='stacked', levels=[['a'], ['b'], ['c']], length=7)).length
    [7, 7]

    Args:
        config: ``type`` is a name in ``LEVELS``, ``length`` a number of iterations for every level
            but the last, or a list of them; the rest as of :class:`LevelPlan` and of the type.

    Raises:
        TypeError: An unknown key, with its nearest match, or one that is missing.
        ValueError: A bad value; a level that nothing of is watched.
    """
    config = dict(config)
    kind = config.pop('type', None)
    check_choice('type of levels', kind, LEVELS.module_dict)
    order: Any = LEVELS.get(kind)
    own = list(inspect.signature(order).parameters)
    check_keys(config, (*own, 'length', 'watch', 'threshold', 'window'), 'levels')
    missing = [key for key in ('levels', 'length') if key not in config]
    if missing:
        raise TypeError(f'levels also need {missing}. Mend: {missing[0]}=…')
    schedule = order(**{key: config.pop(key) for key in own if key in config})
    length = _lengths(config.pop('length'), len(schedule.levels) - 1)
    return LevelPlan(schedule, length, **config)


def _lengths(length: Any, count: int) -> list[Any]:
    """Return the length of each level but the last."""
    lengths = list(length) if isinstance(length, list | tuple) else [length] * count
    if len(lengths) != count:
        raise ValueError(
            f'length must be a number, or one for each of the {count} levels before the last, got '
            f'{length!r}'
        )
    return lengths
