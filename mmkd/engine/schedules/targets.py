"""Targets: the numbers of a Distiller's objectives and teachers that a schedule sets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmkd.engine.schedules.values import Schedule
from mmkd.losses.as_loss import as_loss
from mmkd.utils.checks import check_positive, nearest


@dataclass(frozen=True)
class Target:
    """``<objective>.weight``, ``<objective>.loss.<attribute>``, ``teachers.<name>.<number>``.

    The last one is a number of a teacher that follows a student, such as its momentum.

    Args:
        text: What the config says.

    Raises:
        ValueError: It has another form, or names a second weight of the objective.

    Examples:
        >>> target = Target('end2.loss.temperature')
        >>> target.objective, target.attribute, target.log_key
        ('end2', 'temperature', 'end2.temperature')
    """

    text: str

    def __post_init__(self) -> None:
        parts = self.text.split('.') if isinstance(self.text, str) else []
        deep = len(parts) == 3 and (parts[1] == 'loss' or parts[0] == 'teachers')
        if not all(parts) or not (parts[1:] == ['weight'] or deep):
            raise ValueError(
                "a schedule's target is '<objective>.weight' or '<objective>.loss.<attribute>', "
                f"got {self.text!r}. Mend: target='<objective>.weight'; "
                "'teachers.<name>.<number>' of a teacher that follows"
            )
        if 'loss' in parts[-1]:  # mmengine sums and smooths log keys that contain it
            raise ValueError(
                f'{self.text!r} is a second weight of objective {parts[0]!r}. Mend: '
                f"target='{parts[0]}.weight', which multiplies the loss as well"
            )

    @property
    def objective(self) -> str:
        """Name of the objective."""
        return self.text.split('.')[0]

    @property
    def attribute(self) -> str:
        """Name of the number, of the objective or of its loss."""
        return self.text.split('.')[-1]

    @property
    def is_weight(self) -> bool:
        """Whether it is the objective's own weight."""
        return '.loss.' not in self.text and not self.is_of_teacher

    @property
    def is_of_teacher(self) -> bool:
        """Whether it is a number of a teacher."""
        parts = self.text.split('.')
        return len(parts) == 3 and parts[0] == 'teachers' and parts[1] != 'loss'

    @property
    def log_key(self) -> str:
        """What its value is logged as."""
        name = self.text.split('.')[1] if self.is_of_teacher else self.objective
        return f'{name}.{self.attribute}'

    def check_values(self, schedule: Schedule) -> None:
        """Refuse a schedule with values that this number cannot take.

        A weight may be 0 for a time. A loss checks its own numbers only when it is built, so they
        must stay above 0.

        Raises:
            ValueError: Names the value.
        """
        values = schedule.values()
        if self.is_of_teacher:  # what it may be, the teacher's kind knows
            return
        if not self.is_weight:
            for name, value in values.items():
                check_positive(f'{name} of the schedule of {self.text!r}', value)
            return
        finite = all(map(math.isfinite, values.values()))
        if not finite or min(values.values()) < 0 or max(values.values()) == 0:
            raise ValueError(
                f'the schedule of {self.text!r} goes from '
                f'{" to ".join(map(str, values.values()))}; a weight is 0 or above, and not 0 '
                f'throughout. Mend: {" and ".join(values)} of 0 or more, one of them above 0'
            )

    def owner(self, objectives: Mapping[str, Any]) -> Any:
        """Return the objective or the loss that holds the number.

        Raises:
            KeyError: No such objective, or no such number in its loss; names the nearest match.
            ValueError: The loss reads the number only when it is built.
        """
        if self.objective not in objectives:
            raise KeyError(
                f'ScheduleHook: {self.text!r} names no objective'
                f'{nearest(self.objective, objectives)} (objectives: {list(objectives)})'
            )
        objective = objectives[self.objective]
        if self.is_weight:
            return objective
        self._check_number(objective)
        return objective.loss

    def teacher(self, runs: Mapping[str, Any], schedule: Schedule) -> Any:
        """Return the rule that holds the number of a teacher which follows a student.

        Args:
            runs: Member -> what runs it.
            schedule: What the number will be.

        Raises:
            KeyError: No such teacher, or no such number of its kind; names the nearest match.
            ValueError: A value that the number cannot take.
        """
        rules = {name: run.rule for name, run in runs.items() if hasattr(run, 'rule')}
        name = self.text.split('.')[1]
        if name not in rules:
            raise KeyError(
                f'ScheduleHook: {self.text!r} names no teacher that follows a student'
                f'{nearest(name, rules)} (there are {list(rules)})'
            )
        rule = rules[name]
        if self.attribute not in rule.numbers:
            raise KeyError(
                f'ScheduleHook: {self.text!r}: {type(rule).__name__} has no number '
                f'{self.attribute!r}{nearest(self.attribute, rule.numbers)} (its numbers: '
                f'{sorted(rule.numbers)})'
            )
        for key, value in schedule.values().items():
            rule.check_number(f'{key} of the schedule of {self.text!r}', value)
        return rule

    def _check_number(self, objective: Any) -> None:
        loss = type(objective.loss).__name__
        fixed = as_loss(objective.loss).fixed
        numbers = [name for name in _numbers(objective.loss) if name not in fixed]
        if self.attribute in fixed:
            raise ValueError(
                f'ScheduleHook: {self.text!r} is read when {loss} is built, so changing it would '
                f'change nothing. Mend: one of {sorted(numbers)}, or {self.objective}.weight'
            )
        if self.attribute not in numbers:
            raise KeyError(
                f'ScheduleHook: {self.text!r}: {loss} has no number {self.attribute!r}'
                f'{nearest(self.attribute, numbers)} (its numbers: {sorted(numbers)})'
            )


def _numbers(loss: Any) -> list[str]:
    """Return the attributes of a loss that are numbers, without its weight."""
    return [
        name
        for name, value in vars(loss).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and 'loss' not in name
    ]
