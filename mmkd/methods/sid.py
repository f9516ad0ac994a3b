"""SID: internal representations, stacked."""

from dataclasses import replace
from itertools import groupby
from typing import Any

from mmkd.methods.id import PAPER, TASKS, id
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='sid')
@needs(tasks=TASKS, paper=PAPER, hands_on_to=id)
def sid(
    pair: Pair,
    length: int | None = None,
    threshold: float | None = None,
    window: int | None = None,
    **options: Any,
) -> Plan:
    """As ``id``, layer by layer from the bottom up; each one stays when the next joins (stacked).

    Levels of objectives, then the soft labels and the student's own. A level ends after its
    iterations or, where there is a threshold, when the mean of its states is below that.

    Defaults: a level is as long as two thirds of an equal share, which is the paper's one pass a
    level and three of the labels for six layers; its threshold is not known.

    Args:
        pair: The pair.
        length: Iterations of a level.
        threshold: Of the states' loss.
        window: Iterations whose mean is compared with the threshold.
        options: Those of ``id``.
    """
    return in_levels(pair, 'stacked', length, threshold, window, options)


def in_levels(
    pair: Pair,
    kind: str,
    length: int | None,
    threshold: float | None,
    window: int | None,
    options: dict[str, Any],
) -> Plan:
    """Return the plan of ``id`` with a schedule of its layers."""
    if threshold is None:
        why = 'without a threshold no mean is taken'
        pair.refuse_unused(why, ', or threshold=0.02', window=(window, None))
    plan = id(pair, **options)
    layers = sorted((name for name in plan.objectives if name != 'soft'), key=_number)
    levels = [list(level) for _, level in groupby(layers, _number)]
    if not levels:
        pair.fail(
            "attention=0 and cosine=0 leave no level. Mend: one of them above 0; or method='kd'"
        )
    if length is None and pair.iterations is None:
        pair.fail(
            'how long a level is follows from the length of the run, which nothing says here. '
            f'Mend: method=dict(type={pair.method!r}, length=…)'
        )
    if length is None:
        length = max(1, 2 * (pair.iterations or 0) // (3 * len(levels)))
    watched = {} if threshold is None else dict(watch='cosine*', threshold=threshold)
    if window is not None:
        watched['window'] = window
    schedule = dict(type=kind, levels=[*levels, ['soft', 'task']], length=length, **watched)
    return replace(plan, hooks=[dict(type='mmkd.ScheduleHook', levels=schedule)])


def _number(name: str) -> int:
    return int(name.lstrip('abcdefghijklmnopqrstuvwxyz'))
