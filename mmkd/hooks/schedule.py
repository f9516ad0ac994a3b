"""ScheduleHook: weights of objectives and numbers of their losses that change while training."""
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmkd.checks import check_positive, nearest
from mmkd.registry import HOOKS
from mmkd.schedules import Linear, build_schedule


@HOOKS.register_module()
class ScheduleHook(Hook):
    """Set ``<objective>.weight`` or ``<objective>.loss.<attribute>`` before every iteration.

    The value is a function of the iteration alone, so a resumed run goes on exactly. It is logged as
    ``<objective>.weight`` or ``<objective>.<attribute>``.

    A weight may reach 0, which mutes the objective; an attribute of a loss may not, since a loss checks its own
    arguments only when it is built.

    Args:
        schedules: ``dict(target='end2.loss.temperature', type='linear' | 'cosine' | 'anneal', start=…, end=…,
            begin=…, length=…)`` each, in iterations; see :mod:`mmkd.schedules`.

    Raises:
        ValueError: No schedule, a target of another form or scheduled twice, a value that it cannot take.
        KeyError: No such objective, or no such number in its loss; names the nearest match.
        TypeError: The model has no objectives; a schedule with unknown or missing keys.

    Examples:
        >>> hook = ScheduleHook([dict(target='end2.loss.temperature', type='anneal', begin=100, length=100)])
        >>> hook.schedules['end2.loss.temperature'](150)
        5.5
    """

    def __init__(self, schedules: list[dict]) -> None:
        if not schedules:
            raise ValueError('ScheduleHook has no schedules, so it would do nothing. Mend: remove the hook, or '
                             "schedules=[dict(target='<objective>.weight', type='linear', …)]")
        self.schedules: dict[str, Linear] = {}
        for config in schedules:
            target = _check_target(config.get('target'))
            if target in self.schedules:
                raise ValueError(f'ScheduleHook: {target!r} is scheduled twice. Mend: one schedule a target')
            schedule = build_schedule({k: v for k, v in config.items() if k != 'target'}, f'schedule of {target!r}')
            _check_values(target, schedule)
            self.schedules[target] = schedule
        self._owners: dict[str, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Find every target in the model."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not hasattr(model, 'objectives'):
            raise TypeError(f'ScheduleHook changes the objectives of a Distiller, got {type(model).__name__}. Mend: '
                            "remove the hook, or model=dict(type='mmkd.Distiller', …)")
        for target, schedule in self.schedules.items():
            self._owners[target] = _find_owner(model.objectives, target)
            last = schedule.begin + schedule.length
            if last > runner.max_iters:
                runner.logger.warning(f'ScheduleHook: {target!r} reaches {schedule.end} at iteration {last}, but '
                                      f'training ends at {runner.max_iters}, with {schedule(runner.max_iters - 1):g}')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set and log every value of this iteration."""
        for target, schedule in self.schedules.items():
            value = schedule(runner.iter)
            objective, _, attribute = target.replace('.loss.', '.').partition('.')
            setattr(self._owners[target], attribute, value)
            runner.message_hub.update_scalar(f'train/{objective}.{attribute}', value)


def _check_target(target: Any) -> str:
    parts = target.split('.') if isinstance(target, str) else []
    if not all(parts) or not (parts[1:] == ['weight'] or (len(parts) == 3 and parts[1] == 'loss')):
        raise ValueError(f"a schedule's target is '<objective>.weight' or '<objective>.loss.<attribute>', got "
                         f"{target!r}. Mend: target='<objective>.weight'")
    if 'loss' in parts[-1]:  # mmengine sums and smooths log keys that contain it
        raise ValueError(f'{target!r} is a second weight of objective {parts[0]!r}. Mend: '
                         f"target='{parts[0]}.weight', which multiplies the loss as well")
    return str(target)


def _check_values(target: str, schedule: Linear) -> None:
    if not target.endswith('.weight') or '.loss.' in target:
        for name in ('start', 'end'):
            check_positive(f'{name} of the schedule of {target!r}', getattr(schedule, name))
    elif min(schedule.start, schedule.end) < 0 or max(schedule.start, schedule.end) == 0:
        raise ValueError(f'the schedule of {target!r} goes from {schedule.start} to {schedule.end}; a weight is 0 or '
                         'above, and not 0 throughout. Mend: start and end of 0 or more, one of them above 0')


def _find_owner(objectives: Any, target: str) -> Any:
    """Return the objective or loss that holds the number that ``target`` names."""
    name, *path = target.split('.')
    if name not in objectives:
        raise KeyError(f'ScheduleHook: {target!r} names no objective{nearest(name, objectives)} '
                       f'(objectives: {list(objectives)})')
    objective = objectives[name]
    if path == ['weight']:
        return objective
    numbers = [key for key, value in vars(objective.loss).items()
               if isinstance(value, int | float) and not isinstance(value, bool) and 'loss' not in key]
    fixed = getattr(objective.loss, 'fixed', ())
    numbers = [number for number in numbers if number not in fixed]
    if path[1] in fixed:
        raise ValueError(f'ScheduleHook: {target!r} is read when {type(objective.loss).__name__} is built, so changing '
                         f'it would change nothing. Mend: one of {sorted(numbers)}, or {name}.weight')
    if path[1] not in numbers:
        raise KeyError(f'ScheduleHook: {target!r}: {type(objective.loss).__name__} has no number {path[1]!r}'
                       f'{nearest(path[1], numbers)} (its numbers: {sorted(numbers)})')
    return objective.loss
