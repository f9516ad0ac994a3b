"""ScheduleHook: weights and numbers of objectives that change while training, and levels."""

from dataclasses import asdict
from typing import Any

from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from mmkd.engine.schedules.level_weights import LevelWeights, forget_silence
from mmkd.engine.schedules.levels import LevelPlan, LevelState, build_levels
from mmkd.engine.schedules.targets import Target
from mmkd.engine.schedules.values import Schedule, build_schedule
from mmkd.registry import HOOKS
from mmkd.utils.unwrap import unwrap


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
            start=…, end=…, begin=…, length=…)`` each, in iterations; ``type='piecewise'`` with
            ``points=[(0, 0.), (2000, 1.)]``; a type of one's own with its own arguments, see
            :class:`mmkd.engine.schedules.Schedule`.
        levels: ``dict(type='progressive' | 'stacked', levels=[['attention1', 'cosine1'], …,
            ['soft', 'task']], length=…, watch='cos*', threshold=…, window=50)``, see
            :mod:`mmkd.engine.schedules.levels`.

    Raises:
        ValueError: Nothing to do, a target of another form or scheduled twice, a value that it
            cannot take.
        KeyError: No such objective, or no such number in its loss; names the nearest match.
        TypeError: The model has no objectives; a schedule with unknown or missing keys.

    Examples:
        >>> anneal = dict(target='end2.loss.temperature', type='anneal', begin=100, length=100)
        >>> ScheduleHook([anneal]).schedules['end2.loss.temperature'](150)
        5.5
    """

    def __init__(self, schedules: list[dict] | None = None, levels: dict | None = None) -> None:
        _check_given(schedules, levels)
        self.targets: dict[str, Target] = {}
        self.schedules: dict[str, Schedule] = {}
        for config in schedules or []:
            self._add(dict(config))
        self.levels = build_levels(levels) if levels else None
        self.state = LevelState()
        _check_apart(self.schedules, self.levels)
        self._owners: dict[str, Any] = {}
        self._weights: LevelWeights | None = None

    def _add(self, config: dict[str, Any]) -> None:
        target = Target(config.pop('target', None))
        if target.text in self.schedules:
            raise ValueError(
                f'ScheduleHook: {target.text!r} is scheduled twice. Mend: one schedule a target'
            )
        schedule = build_schedule(config, f'schedule of {target.text!r}')
        target.check_values(schedule)
        self.targets[target.text], self.schedules[target.text] = target, schedule

    def before_train(self, runner: Runner) -> None:
        """Find every target in the model, and begin with the level where the training stands."""
        model = unwrap(runner.model)
        _check_model(model)
        for text, target in self.targets.items():
            self._owners[text] = target.owner(model.objectives)
            _warn_of_late_end(runner, text, self.schedules[text])
        if self.levels:
            self._weights = LevelWeights(model, self.levels.schedule.names)
            _warn_of_late_level(runner, self.levels)
            self._enter(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set and log every value of this iteration."""
        for text, target in self.targets.items():
            value = self.schedules[text](runner.iter)
            setattr(self._owners[text], target.attribute, value)
            runner.message_hub.update_scalar(f'train/{target.log_key}', value)
        if self.levels:
            runner.message_hub.update_scalar('train/level', self.state.level)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Go on to the next level where this one has ended."""
        if self.levels is None:
            return
        before = self.state.level
        self.state, why = self.levels.advance(self.state, runner.iter, self._watched(outputs or {}))
        if self.state.level != before:
            runner.logger.info(
                f'mmkd: level {before} ends after iteration {runner.iter + 1}, because {why}'
            )
            self._enter(runner)
            for optimizer in _optimizers(runner.optim_wrapper):
                forget_silence(optimizer)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write down where the levels stand."""
        if self.levels:
            checkpoint['mmkd_levels'] = asdict(self.state)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on from there, if the run is resumed."""
        if self.levels and runner._resume:
            _check_levels(checkpoint, len(self.levels.schedule.levels))
            self.state = LevelState(**checkpoint['mmkd_levels'])

    def _watched(self, outputs: dict) -> float | None:
        """Return the mean of the watched losses; None where none decides."""
        assert self.levels is not None
        names = self.levels.watched(self.state.level)
        if not names:
            return None
        assert self._weights is not None
        mean = self._weights.mean_loss(names, outputs)
        all_reduce(mean, 'mean')  # every rank decides alike
        return float(mean)

    def _enter(self, runner: Runner) -> None:
        assert self.levels is not None
        assert self._weights is not None
        active = self.levels.schedule.active(self.state.level)
        self._weights.learn_from(active)
        runner.logger.info(
            f'mmkd: level {self.state.level} of {len(self.levels.schedule.levels)} (counted from '
            f'0) learns from {sorted(active)}'
        )


def _check_given(schedules: Any, levels: Any) -> None:
    if not schedules and not levels:
        raise ValueError(
            'ScheduleHook has no schedules, so it would do nothing. Mend: remove the hook, or '
            "schedules=[dict(target='<objective>.weight', type='linear', …)], or levels=dict(…)"
        )
    is_list = isinstance(schedules or [], list | tuple)
    if not is_list or not all(isinstance(config, dict) for config in schedules or []):
        raise TypeError(
            f'ScheduleHook: schedules must be a list of dictionaries, got {schedules!r:.80}. Mend: '
            "[dict(target='<objective>.weight', type='linear', …)]"
        )


def _check_apart(schedules: dict[str, Schedule], levels: LevelPlan | None) -> None:
    """Refuse a weight that a schedule and a level would both set."""
    names = levels.schedule.names if levels else []
    for target in schedules:
        if target.removesuffix('.weight') in names:
            raise ValueError(
                f'ScheduleHook: {target!r} is scheduled, and a level sets it too. Mend: one of the '
                'two'
            )


def _check_model(model: Any) -> None:
    if not hasattr(model, 'objectives'):
        raise TypeError(
            f'ScheduleHook changes the objectives of a Distiller, got {type(model).__name__}. '
            "Mend: remove the hook, or model=dict(type='mmkd.Distiller', …)"
        )


def _check_levels(checkpoint: dict, count: int) -> None:
    if 'mmkd_levels' not in checkpoint:
        raise ValueError(
            'ScheduleHook: the checkpoint that is resumed knows of no levels: its run had none. '
            'Mend: load_from=… in place of resume, which begins with the first level'
        )
    level = checkpoint['mmkd_levels']['level']
    if level >= count:
        raise ValueError(
            f'ScheduleHook: the checkpoint that is resumed stands in level {level}, but there are '
            f'{count} (counted from 0). Mend: the levels that it was trained with'
        )


def _warn_of_late_end(runner: Runner, target: str, schedule: Schedule) -> None:
    last = schedule.begin + schedule.length
    if last > runner.max_iters:
        runner.logger.warning(
            f'ScheduleHook: {target!r} reaches {schedule(last)} at iteration {last}, but training '
            f'ends at {runner.max_iters}, with {schedule(runner.max_iters - 1):g}'
        )


def _warn_of_late_level(runner: Runner, levels: LevelPlan) -> None:
    latest = sum(levels.length)
    if latest >= runner.max_iters:
        runner.logger.warning(
            f'ScheduleHook: the last level may begin as late as iteration {latest}, but training '
            f'ends at {runner.max_iters}. Mend: a shorter length, or a longer training'
        )


def _optimizers(wrapper: Any) -> list[Any]:
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [one.optimizer for one in wrappers]
