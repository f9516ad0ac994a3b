"""LengthCheckHook: no run whose config says its length once and was never filled in."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim.scheduler.param_scheduler import INF
from mmengine.runner import BaseLoop, Runner

from mmkd.registry import HOOKS

# schedules whose shape depends on where they end; by default that is 10^9 iterations away
ENDING = re.compile(r'(Poly|Linear|CosineAnnealing)(LR|Momentum|ParamScheduler)')


@dataclass(frozen=True)
class LeftOut:
    """A setting that a config leaves out, and what follows from the length of the run."""

    where: str
    part: dict[str, Any]
    key: str
    value: int
    after: str = ''  # the key behind which one usually writes it


def lengths_left_out(cfg: Any) -> Iterator[LeftOut]:
    """Yield what a config leaves out and ``train_cfg`` decides.

    A schedule that needs an end ends with the run. A run by iterations is validated once, at its
    end, and saved as often as it is validated.

    >>> cfg = dict(train_cfg=dict(max_iters=880), val_cfg=dict(), param_scheduler=[
    ...     dict(type='LinearLR', begin=0, end=100, by_epoch=False),
    ...     dict(type='PolyLR', begin=100, by_epoch=False)])
    >>> [(each.where, each.value) for each in lengths_left_out(cfg)]
    [('train_cfg.val_interval', 880), ('param_scheduler[1].end', 880)]
    """
    loop = cfg.get('train_cfg') or {}
    length = loop.get('max_iters')
    if length is not None:
        interval = loop.get('val_interval', length)
        if 'val_interval' not in loop and cfg.get('val_cfg') is not None:
            yield LeftOut('train_cfg.val_interval', loop, 'val_interval', length)
        hook = (cfg.get('default_hooks') or {}).get('checkpoint')
        if isinstance(hook, dict) and 'interval' not in hook and not hook.get('by_epoch', True):
            yield LeftOut(
                'default_hooks.checkpoint.interval', hook, 'interval', min(interval, length)
            )
    for where, scheduler in _schedulers(cfg.get('param_scheduler'), 'param_scheduler'):
        last = loop.get('max_epochs') if scheduler.get('by_epoch', True) else length
        if last is not None and _needs_an_end(scheduler):
            begin = scheduler.get('begin', 0)
            end = max(
                last, begin + 1
            )  # a run that was cut short may end before this schedule begins
            yield LeftOut(f'{where}.end', scheduler, 'end', end, 'begin')
            if _kind(scheduler).startswith('CosineAnnealing'):
                yield LeftOut(f'{where}.T_max', scheduler, 'T_max', end - begin, 'type')


def _schedulers(found: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schedule, be there one, a list, or one of both for each optimizer."""
    if isinstance(found, list | tuple):
        for index, each in enumerate(found):
            yield from _schedulers(each, f'{where}[{index}]')
    elif isinstance(found, dict) and 'type' in found:
        yield where, found
    elif isinstance(found, dict):
        for name, each in found.items():
            yield from _schedulers(each, f'{where}.{name}')


def _kind(scheduler: dict[str, Any]) -> str:
    kind = scheduler['type']
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[-1]


def _needs_an_end(scheduler: dict[str, Any]) -> bool:
    # a cosine with a T_max of its own goes up and down for as long as the run lasts
    return ENDING.fullmatch(_kind(scheduler)) is not None and not {'end', 'T_max'} & set(scheduler)


@HOOKS.register_module()
class LengthCheckHook(Hook):
    """Refuse a training whose schedules lack an end, or validation and checkpoints an interval.

    A recipe says its length once, ``train_cfg=dict(max_iters=…)``; mmkd's tools fill in what
    follows. A Runner that is built from the file itself would get mmengine's defaults: a schedule
    that never ends, a validation every 1,000 iterations, no checkpoint but the last.

    A resumed run goes on with the schedules of its checkpoint, as mmengine does; it is warned of
    where they end elsewhere than the config's.

    Raises:
        ValueError: The run's config leaves out one of these; names them all.
    """

    def before_run(self, runner: Runner) -> None:
        """Look into the config of a training; a test needs no length."""
        if not isinstance(runner._train_loop, BaseLoop):
            return
        found = list(lengths_left_out(runner.cfg))
        if found:
            raise ValueError(
                f'the config leaves out {", ".join(each.where for each in found)}, and mmengine '
                'would take defaults that do not fit the length of the run. Mend: mmkd train; '
                'or mmkd.launch.prepare_config(cfg) before Runner.from_cfg(cfg); or write '
                f'{found[0].where} = {found[0].value} and so on'
            )

    def before_train(self, runner: Runner) -> None:
        """Compare the schedules of a checkpoint that is resumed with the config's."""
        if runner.iter == 0:
            return
        found = runner.param_schedulers
        groups = found.values() if isinstance(found, dict) else [found or []]
        ends = {scheduler.end for group in groups for scheduler in group}
        settings = _schedulers(runner.cfg.get('param_scheduler'), 'param_scheduler')
        asked = {one['end'] for _, one in settings if 'end' in one}
        others = sorted(end for end in ends - asked if end < INF)
        if others and asked:
            runner.logger.warning(
                f'the checkpoint holds a schedule that ends at {others[-1]}, and the run goes on '
                f'with it; the config says {max(asked)}. Mend: a training from the start, or '
                'load_from=CHECKPOINT without resume, which begins a schedule anew'
            )
