"""ScheduleHook: weights of objectives and numbers of their losses that change while training, and levels of them."""

from dataclasses import asdict
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from mmkd.engine.schedules import Linear, build_schedule
from mmkd.engine.schedules.levels import TASK, LevelState, build_levels
from mmkd.registry import HOOKS
from mmkd.utils.checks import check_positive, nearest


@HOOKS.register_module()
class ScheduleHook(Hook):
    """Set ``<objective>.weight`` or ``<objective>.loss.<attribute>`` before every iteration.

    The value is a function of the iteration alone, so a resumed run goes on exactly. It is logged
    as ``<objective>.weight`` or ``<objective>.<attribute>``.

    A weight may reach 0, which mutes the objective; an attribute of a loss may not, since a loss
    checks its own arguments only when it is built.

    Levels learn from some objectives at a time, layer by layer. The objectives of the current level
    have the weights of the config, those of other levels weight 0; what no level names is left
    alone, and the name 'task' stands for the students' own losses. A level ends after its
    iterations, or when its watched losses are small; the log says which. Where the training stands
    is part of each checkpoint, so that a resumed run goes on within the level.

    Args:
        schedules: ``dict(target='end2.loss.temperature', type='linear' | 'cosine' | 'anneal',
            start=…, end=…, begin=…, length=…)`` each, in iterations; see
            :mod:`mmkd.engine.schedules`.
        levels: ``dict(type='progressive' | 'stacked', levels=[['attention1', 'cosine1'], …,
            ['soft', 'task']], length=…, watch='cos*', threshold=…, window=50)``, see
            :mod:`mmkd.engine.schedules.levels`.

    Raises:
        ValueError: Nothing to do, a target of another form or scheduled twice, a value that it
            cannot take.
        KeyError: No such objective, or no such number in its loss; names the nearest match.
        TypeError: The model has no objectives; a schedule with unknown or missing keys.

    Examples:
        >>> hook = ScheduleHook([dict(target='end2.loss.temperature', type='anneal', begin=100, length=100)])
        >>> hook.schedules['end2.loss.temperature'](150)
        5.5
    """

    def __init__(self, schedules: list[dict] | None = None, levels: dict | None = None) -> None:
        if not schedules and not levels:
            raise ValueError(
                'ScheduleHook has no schedules, so it would do nothing. Mend: remove the hook, or '
                "schedules=[dict(target='<objective>.weight', type='linear', …)], or levels=dict(…)"
            )
        self.schedules: dict[str, Linear] = {}
        for config in schedules or []:
            if not isinstance(schedules, list | tuple) or not isinstance(config, dict):
                raise TypeError(
                    'ScheduleHook: schedules must be a list of dictionaries, got '
                    f"{schedules!r:.80}. Mend: [dict(target='<objective>.weight', type='linear', "
                    f'…)]'
                )
            target = _check_target(config.get('target'))
            if target in self.schedules:
                raise ValueError(
                    f'ScheduleHook: {target!r} is scheduled twice. Mend: one schedule a target'
                )
            schedule = build_schedule(
                {k: v for k, v in config.items() if k != 'target'}, f'schedule of {target!r}'
            )
            _check_values(target, schedule)
            self.schedules[target] = schedule
        self._owners: dict[str, Any] = {}
        self.levels = build_levels(levels) if levels else None
        self.state = LevelState()
        twice = [
            t
            for t in self.schedules
            if self.levels and t.removesuffix('.weight') in self.levels.schedule.names
        ]
        if twice:
            raise ValueError(
                f'ScheduleHook: {twice[0]!r} is scheduled, and a level sets it too. Mend: one of '
                f'the two'
            )

    def before_train(self, runner: Runner) -> None:
        """Find every target in the model."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not hasattr(model, 'objectives'):
            raise TypeError(
                f'ScheduleHook changes the objectives of a Distiller, got {type(model).__name__}. '
                f'Mend: '
                "remove the hook, or model=dict(type='mmkd.Distiller', …)"
            )
        for target, schedule in self.schedules.items():
            self._owners[target] = _find_owner(model.objectives, target)
            last = schedule.begin + schedule.length
            if last > runner.max_iters:
                runner.logger.warning(
                    f'ScheduleHook: {target!r} reaches {schedule.end} at iteration {last}, but '
                    f'training ends at {runner.max_iters}, with {schedule(runner.max_iters - 1):g}'
                )
        if self.levels:
            self._find_levels(runner, model)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set and log every value of this iteration."""
        for target, schedule in self.schedules.items():
            value = schedule(runner.iter)
            objective, _, attribute = target.replace('.loss.', '.').partition('.')
            setattr(self._owners[target], attribute, value)
            runner.message_hub.update_scalar(f'train/{objective}.{attribute}', value)
        if self.levels:
            runner.message_hub.update_scalar('train/level', self.state.level)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Go on to the next level where this one has ended."""
        if self.levels is None:
            return
        watched = self.levels.watched(self.state.level)
        value = None
        if watched:
            # without its weights: those of the config, the objective's and the loss's own
            plain = [
                (outputs or {})[f'{name}.loss'].detach()
                / (self._full[name] * self._owners[name].loss.loss_weight)
                for name in watched
            ]
            mean = torch.stack(plain).mean()
            all_reduce(mean, 'mean')  # every rank decides alike
            value = float(mean)
        state, why = self.levels.advance(self.state, runner.iter, value)
        if state.level != self.state.level:
            runner.logger.info(
                f'mmkd: level {self.state.level} ends after iteration {runner.iter + 1}, because '
                f'{why}'
            )
            self._enter(runner, state.level)
            _forget_silence(runner.optim_wrapper)
        self.state = state

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write down where the levels stand."""
        if self.levels:
            checkpoint['mmkd_levels'] = asdict(self.state)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on from there, if the run is resumed."""
        if not self.levels or not runner._resume:
            return
        if 'mmkd_levels' not in checkpoint:
            raise ValueError(
                'ScheduleHook: the checkpoint that is resumed knows of no levels: its run had '
                'none. Mend: '
                'load_from=… in place of resume, which begins with the first level'
            )
        state = LevelState(**checkpoint['mmkd_levels'])
        if state.level >= len(self.levels.schedule.levels):
            raise ValueError(
                f'ScheduleHook: the checkpoint that is resumed stands in level {state.level}, but '
                f'there '
                f'are {len(self.levels.schedule.levels)} (counted from 0). Mend: the levels that '
                f'it was '
                'trained with'
            )
        self.state = state

    def _find_levels(self, runner: Runner, model: Any) -> None:
        assert self.levels is not None
        owners = {
            name: _find_owner(model.objectives, f'{name}.weight')
            for name in self.levels.schedule.names
            if name != TASK
        }
        self._full = {name: owner.weight for name, owner in owners.items()}
        self._owners |= owners
        if TASK in self.levels.schedule.names:
            self._owners[TASK], self._full[TASK] = model, model.task_weight
        latest = sum(self.levels.length)
        if latest >= runner.max_iters:
            runner.logger.warning(
                f'ScheduleHook: the last level may begin as late as iteration {latest}, but '
                f'training '
                f'ends at {runner.max_iters}. Mend: a shorter length, or a longer training'
            )
        self._enter(runner, self.state.level)

    def _enter(self, runner: Runner, level: int) -> None:
        assert self.levels is not None
        active = self.levels.schedule.active(level)
        for name, weight in self._full.items():
            setattr(
                self._owners[name],
                'task_weight' if name == TASK else 'weight',
                weight * (name in active),
            )
        runner.logger.info(
            f'mmkd: level {level} of {len(self.levels.schedule.levels)} (counted from 0) learns '
            f'from '
            f'{sorted(active)}'
        )


def _forget_silence(wrapper: Any) -> None:
    """Let Adam begin anew with what has had no gradient yet.

    Its steps have counted on with gradients of 0, so its bias correction is over, and the first
    gradient of a new level would move a weight by several times the learning rate.
    """
    for one in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
        state = one.optimizer.state
        for parameter in [
            p
            for p, found in state.items()
            if 'exp_avg_sq' in found and not found['exp_avg_sq'].any()
        ]:
            del state[parameter]


def _check_target(target: Any) -> str:
    parts = target.split('.') if isinstance(target, str) else []
    if not all(parts) or not (parts[1:] == ['weight'] or (len(parts) == 3 and parts[1] == 'loss')):
        raise ValueError(
            f"a schedule's target is '<objective>.weight' or '<objective>.loss.<attribute>', got "
            f"{target!r}. Mend: target='<objective>.weight'"
        )
    if 'loss' in parts[-1]:  # mmengine sums and smooths log keys that contain it
        raise ValueError(
            f'{target!r} is a second weight of objective {parts[0]!r}. Mend: '
            f"target='{parts[0]}.weight', which multiplies the loss as well"
        )
    return str(target)


def _check_values(target: str, schedule: Linear) -> None:
    if not target.endswith('.weight') or '.loss.' in target:
        for name in ('start', 'end'):
            check_positive(f'{name} of the schedule of {target!r}', getattr(schedule, name))
    elif min(schedule.start, schedule.end) < 0 or max(schedule.start, schedule.end) == 0:
        raise ValueError(
            f'the schedule of {target!r} goes from {schedule.start} to {schedule.end}; a weight '
            f'is 0 or '
            'above, and not 0 throughout. Mend: start and end of 0 or more, one of them above 0'
        )


def _find_owner(objectives: Any, target: str) -> Any:
    """Return the objective or loss that holds the number that ``target`` names."""
    name, *path = target.split('.')
    if name not in objectives:
        raise KeyError(
            f'ScheduleHook: {target!r} names no objective{nearest(name, objectives)} '
            f'(objectives: {list(objectives)})'
        )
    objective = objectives[name]
    if path == ['weight']:
        return objective
    numbers = [
        key
        for key, value in vars(objective.loss).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and 'loss' not in key
    ]
    fixed = getattr(objective.loss, 'fixed', ())
    numbers = [number for number in numbers if number not in fixed]
    if path[1] in fixed:
        raise ValueError(
            f'ScheduleHook: {target!r} is read when {type(objective.loss).__name__} is built, so '
            f'changing '
            f'it would change nothing. Mend: one of {sorted(numbers)}, or {name}.weight'
        )
    if path[1] not in numbers:
        raise KeyError(
            f'ScheduleHook: {target!r}: {type(objective.loss).__name__} has no number {path[1]!r}'
            f'{nearest(path[1], numbers)} (its numbers: {sorted(numbers)})'
        )
    return objective.loss
