"""Rise and fall: options of every method, which change the weights of its objectives in time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan

RAMPS = ('warm_up', 'decay')  # options of every method
Ramp = list[tuple[int, float]]


def ramp(pair: Pair, warm_up: Any = None, decay: Any = None) -> Ramp:
    """Return the points (iteration, share of the weight) of a rise from 0 and of a fall to 0.

    In between the share is 1; from point to point it is a straight line.

    Args:
        pair: The pair, which knows the length of the run.
        warm_up: Iterations of the rise; None or 0: there is none. A whole number counts
            iterations, a number from 0.0 to 1.0 is a share of the run.
        decay: Where the fall begins and where it ends, two such numbers; None: there is none.

    Returns:
        Nothing where neither is asked for.

    Raises:
        ValueError: No such number; a share of a run whose length is not known; a fall that ends
            before it begins, or begins before the rise ends.

    >>> ramp(Pair(iterations=160_000), 2000, (0.6875, 0.75))
    [(0, 0.0), (2000, 1.0), (110000, 1.0), (120000, 0.0)]
    """
    rise = 0 if warm_up is None else _iteration(pair, 'warm_up', warm_up)
    points = [(0, 0.0), (rise, 1.0)] if rise else [(0, 1.0)]
    if decay is not None:
        begin, end = _fall(pair, decay)
        if begin < rise:
            pair.fail(
                f'the weight rises until iteration {rise} and would fall from {begin} on. Mend: '
                f'warm_up={begin} or less, or a decay that begins later'
            )
        points += [(begin, 1.0)] if begin > points[-1][0] else []
        points.append((end, 0.0))
    return points if len(points) > 1 else []


def _fall(pair: Pair, decay: Any) -> tuple[int, int]:
    if isinstance(decay, str) or not isinstance(decay, Sequence) or len(decay) != 2:
        pair.fail(
            'decay must be two numbers, where the fall begins and where it ends, got '
            f'{decay!r}. Mend: decay=(0.7, 0.75)'
        )
    begin, end = (_iteration(pair, 'decay', value) for value in decay)
    if end == begin and all(map(is_share, decay)) and decay[0] < decay[1]:
        end += 1  # shares of a short run
    if end <= begin:
        pair.fail(
            f'decay must end after it begins, got {tuple(decay)!r}. Mend: decay=(0.7, 0.75), or '
            'whole numbers of iterations'
        )
    return begin, end


def is_share(value: Any) -> bool:
    """Return whether a number is a share of the run; whole numbers count iterations.

    >>> is_share(0.5), is_share(1.0), is_share(1), is_share(2.5)
    (True, True, False, False)
    """
    return isinstance(value, float) and 0 <= value <= 1


def _iteration(pair: Pair, option: str, value: Any) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not whole and not is_share(value):
        pair.fail(
            f'{option} takes whole numbers of iterations, 0 or more, or shares of the run, from '
            f'0.0 to 1.0, got {value!r}. Mend: {option}='
            f'{"2000 or 0.0125" if option == "warm_up" else "(110000, 120000) or (0.7, 0.75)"}'
        )
    if whole:
        return value
    if pair.iterations is None:
        pair.fail(
            f'{option} has {value!r}, a share of the run, whose length nothing says here. Mend: a '
            'whole number of iterations, or train_cfg=dict(max_iters=…)'
        )
    return round(value * pair.iterations)


def with_ramp(plan: Plan, pair: Pair, asked: Mapping[str, Any]) -> Plan:
    """Return a plan whose objectives rise and fall as asked, or else as the method itself says.

    What a method says in shares is left out where the length of the run is not known.

    Args:
        plan: What the method makes of the pair.
        pair: The pair.
        asked: Those of ``warm_up`` and ``decay`` that were given.

    Raises:
        ValueError: As of :func:`ramp`; the method sets these weights itself.
    """
    chosen = dict(warm_up=plan.warm_up, decay=plan.decay)
    if pair.iterations is None:
        chosen = {option: own for option, own in chosen.items() if not _has_share(own)}
    chosen |= asked
    points = ramp(pair, **chosen)
    taken = [name for name in plan.objectives if name in _scheduled(plan.hooks)] if points else []
    if taken:
        pair.fail(
            f'it sets the weights of {", ".join(taken)} itself while it trains, so warm_up and '
            'decay have none to set. Mend: leave them out'
        )
    return replace(plan, ramps={name: list(points) for name in plan.objectives} if points else {})


def leaves_out(plan: Plan, options: Mapping[str, Any]) -> bool:
    """Return whether a method says shares of a run that nobody gave it options for.

    >>> leaves_out(Plan(warm_up=0.1), dict(tau=2.0)), leaves_out(Plan(warm_up=0.1), dict(warm_up=0))
    (True, False)
    """
    own = dict(warm_up=plan.warm_up, decay=plan.decay)
    return any(_has_share(one) for option, one in own.items() if option not in options)


def _has_share(value: Any) -> bool:
    return any(map(is_share, value if isinstance(value, Sequence) else (value,)))


def _scheduled(hooks: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the objectives whose weights hooks set, by schedules or by levels."""
    found: set[str] = set()
    for hook in hooks:
        targets = [str(one.get('target')) for one in hook.get('schedules') or ()]
        found |= {one.removesuffix('.weight') for one in targets if one.endswith('.weight')}
        for level in (hook.get('levels') or {}).get('levels', ()):
            found.update(level)
    return found


def hooks_of(ramps: Mapping[str, Ramp], objectives: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the hook that sets the weights of objectives, if any of them rises or falls.

    Args:
        ramps: Objective -> points (iteration, share of its weight).
        objectives: Name -> objective, with its weight; those that are not there are left out.

    >>> hook, = hooks_of(dict(kd=[(0, 0.), (9, 1.)]), dict(kd=dict(weight=3.)))
    >>> hook['schedules'][0]
    {'target': 'kd.weight', 'type': 'piecewise', 'points': [(0, 0.0), (9, 3.0)]}
    """
    schedules = []
    for name, points in ramps.items():
        weight = objectives.get(name, {}).get('weight', 1.0)
        # what is no weight, the objective refuses
        if name in objectives and isinstance(weight, int | float) and weight > 0:
            scaled = [(step, share * float(weight)) for step, share in points]
            schedules.append(dict(target=f'{name}.weight', type='piecewise', points=scaled))
    return [dict(type='mmkd.ScheduleHook', schedules=schedules)] if schedules else []
