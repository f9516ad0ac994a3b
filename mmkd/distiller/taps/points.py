"""Points: what objectives usually read, found in a traced forward and not by a table of heads.

``logits`` is what becomes the class map or the vector of classes, before any resize; of detectors
the finest level's, ``logits[1]`` the next one's. ``feature`` is what the classifier reads, before
its dropout. ``stages[i]`` and ``neck[i]`` are the maps of backbone and neck, ``hidden[i]`` the
tokens after each block, ``query[i]``, ``key[i]`` and ``attention[i]`` what its heads compare and
give. ``depth`` is a depth estimator's map in metres.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from mmkd.distiller.taps.attention import is_attention
from mmkd.distiller.taps.tappable import is_dropout
from mmkd.structures.trace import Call, Trace, is_same, tensors
from mmkd.tasks.base import Task
from mmkd.tasks.queries import class_map
from mmkd.utils.checks import nearest

POINTS = ('logits', 'feature', 'stages', 'neck', 'hidden', 'query', 'key', 'attention', 'depth')
_GRAMMAR = re.compile(r'auto(?::(?P<point>\w+))?(?:\[(?P<index>-?\d+)\])?')

Found = dict[str, list[str]]  # point -> taps


def is_point(tap: Any) -> bool:
    """Return whether a tap names a point: ``'auto'``, ``'auto:feature'``, ``'auto:stages[1]'``.

    >>> is_point('auto:stages[-1]'), is_point('autoencoder.head')
    (True, False)
    """
    return isinstance(tap, str) and (tap == 'auto' or tap.startswith(('auto:', 'auto[')))


def read_point(name: str, tap: str, where: str) -> tuple[str, int | None]:
    """Return the point that a tap names, and which one of several; ``'auto'`` is the tap's own.

    Args:
        name: Of the tap.
        tap: What was written.
        where: How errors call the member.

    Raises:
        ValueError: It does not follow the grammar.
        KeyError: There is no such point.

    >>> read_point('logits', 'auto', 'teacher'), read_point('map', 'auto:stages[1]', 'teacher')
    (('logits', None), ('stages', 1))
    """
    match = _GRAMMAR.fullmatch(tap)
    if match is None:
        raise ValueError(
            f"tap {name!r} of {where}: a point is 'auto', 'auto:feature' or 'auto:stages[1]', got "
            f'{tap!r}'
        )
    point = match['point'] or name
    if point not in POINTS:
        raise KeyError(
            f'tap {name!r} of {where} ({tap!r}): there is no point {point!r}'
            f'{nearest(point, POINTS)} (points: {", ".join(POINTS)}). Mend: '
            f"'auto:feature', or the path of a module"
        )
    return point, None if match['index'] is None else int(match['index'])


def choose(name: str, tap: str, found: Found, where: str) -> str:
    """Return the tap that a point stands for.

    Args:
        name: Of the tap.
        tap: What was written.
        found: Point -> taps.
        where: How errors call the member.

    Raises:
        KeyError: The point was not found; there are several or fewer.

    >>> choose('logits', 'auto', dict(logits=['head.fc']), 'teacher')
    'head.fc'
    """
    point, index = read_point(name, tap, where)
    taps = found.get(point) or []
    if not taps:
        raise KeyError(
            f'tap {name!r} of {where} ({tap!r}): no {point!r} was found in its forward (found: '
            f'{_told(found) or "nothing"})'
        )
    if index is None and len(taps) > 1 and point not in ('logits', 'feature', 'depth'):
        raise KeyError(
            f'tap {name!r} of {where} ({tap!r}): there are {len(taps)} {point}. Mend: '
            f"'auto:{point}[0]' … 'auto:{point}[{len(taps) - 1}]'"
        )
    index = index or 0
    if not -len(taps) <= index < len(taps):
        raise KeyError(
            f'tap {name!r} of {where} ({tap!r}): there are {len(taps)} {point}. Mend: '
            f"'auto:{point}[{len(taps) - 1}]' is the last"
        )
    return taps[index]


def _told(found: Found) -> str:
    return ', '.join(f'{point} ({len(taps)})' for point, taps in found.items() if taps)


def find_points(task: Task, model: nn.Module, prediction: Trace, role: Trace) -> Found:
    """Return the taps of every point that a model has.

    Args:
        task: What the model does.
        model: The model that was traced.
        prediction: A prediction of it.
        role: The forward that it runs in a training: that of a student computes its losses, and
            may call a module several times.
    """
    found: Found = {}
    said = list(task.says(model, prediction))
    calls = [_call_of(tensor, prediction, role) for tensor in said]
    known = [call for call in calls if call is not None]
    head = task.head_path(model)
    if known:
        found['logits'] = [role.tap(call, index) for call, index in known]
        feature = _read_by(known[0][0], role)
    elif head is not None and any(call.path == head for call in role.calls):
        found['logits'] = [f'{head}:scores']
        feature = _last_map(head, role)
    else:
        feature = ''
    found['feature'] = [feature] if feature else []
    found['depth'] = [
        role.tap(*made)
        for tensor in task.measures(model, prediction)
        if (made := _call_of(tensor, prediction, role))
    ]
    for point, path in dict(stages='backbone', neck='neck').items():
        found[point] = _maps_of(path, role)
    found['hidden'] = [role.tap(call, index) for call, index in _blocks(model, role)]
    attention = [call for call in role.calls if call.hooked and is_attention(call.module)]
    found['query'] = [role.tap(call, side=':query') for call in attention]
    found['key'] = [role.tap(call, side=':key') for call in attention]
    found['attention'] = [role.tap(call, (1,), side=':output') for call in attention]
    return {point: taps for point, taps in found.items() if taps}


def own_points(points: Mapping[str, Any] | None, where: str) -> Found:
    """Return a member's own ``points=``, each as a list.

    Raises:
        KeyError: There is no such point.
        TypeError: Neither a tap nor a list of taps.

    >>> own_points(dict(logits='my.cls'), 'student')
    {'logits': ['my.cls']}
    """
    found: Found = {}
    for point, taps in (points or {}).items():
        if point not in POINTS:
            raise KeyError(
                f'points of {where}: there is no point {point!r}{nearest(point, POINTS)} (points: '
                f'{", ".join(POINTS)})'
            )
        listed = [taps] if isinstance(taps, str) else taps
        if not isinstance(listed, list | tuple) or not all(isinstance(t, str) for t in listed):
            raise TypeError(
                f'points of {where}: {point} must be a tap or a list of taps, got {taps!r}. Mend: '
                f"points=dict({point}='decode_head.conv_seg')"
            )
        found[point] = list(listed)
    return found


def _call_of(tensor: Any, prediction: Trace, role: Trace) -> tuple[Call, tuple] | None:
    """Return the call in the role's forward that makes what this one is in a prediction."""
    made = prediction.maker(tensor)
    if made is None:
        return None
    call, index = made
    there = [other for other in role.of(call.path) if other.hooked]
    if not there:
        return None
    return there[min(call.number, len(there) - 1)], index


def _read_by(call: Call, role: Trace) -> str:
    """Return what a call read, taken before the dropout that it came through; '' for no tensor."""
    read = next((given for given in call.inputs if _is_feature(given)), None)
    if read is None:
        return ''
    for other in reversed(role.calls[: role.calls.index(call)]):
        if is_dropout(other.module) and is_same(other.output, read):
            return role.tap(other, side=':input')
    place = next(i for i, given in enumerate(call.inputs) if given is read)
    return role.tap(call, (place,) if place else (), ':input')


def _is_feature(value: Any) -> bool:
    return hasattr(value, 'dim') and value.dim() in (2, 4)


def _last_map(head: str, role: Trace) -> str:
    """Return the last map that was made before a head answered, of the size of its answer."""
    answer = role.of(head)[-1]
    size = class_map(answer.output).shape[2:]
    said = [made for _, made in tensors(answer.output)]  # the masks of queries are no feature
    before = role.calls[: role.calls.index(answer)]
    found = [(call, *one) for call in before for one in _maps(call, role)]
    found = [one for one in found if not _is_among(one[2], said)]
    alike = [one for one in found if one[2].shape[2:] == size] or found
    if not alike:
        return ''
    call, index, made = alike[-1]
    first = role.maker(made)  # a module within may have made it already
    return role.tap(*(first if first is not None and not first[1] else (call, index)))


def _is_among(tensor: Any, others: Iterable[Any]) -> bool:
    return any(is_same(tensor, other) for other in others)


def _maps(call: Call, role: Trace) -> Iterator[tuple[tuple, Any]]:
    """Yield the maps of a call's output, the finest one last."""
    if call.hooked and not is_dropout(call.module):
        for index, made in reversed(list(tensors(call.output))):
            if made.dim() == 4 and made.shape[0] == role.images and min(made.shape[2:]) > 1:
                yield index, made


def _maps_of(path: str, role: Trace) -> list[str]:
    calls = [call for call in role.of(path) if call.hooked]
    if not calls:
        return []
    maps = [index for index, made in tensors(calls[0].output) if made.dim() == 4]
    # of one map in a tuple too the index is needed
    return [role.tap(calls[0], index) for index in maps]


def _blocks(model: nn.Module, role: Trace) -> Iterable[tuple[Call, tuple]]:
    """Yield the calls of transformer blocks, with the index of their tokens (N, L, D)."""
    lists = [path for path, one in model.named_modules() if isinstance(one, nn.ModuleList)]
    for call in role.calls:
        parent = call.path.rpartition('.')[0]
        if not call.hooked or parent not in lists or not _attends(call.module):
            continue
        for index, made in list(tensors(call.output))[:1]:
            if made.dim() == 3:
                yield call, index


def _attends(module: nn.Module) -> bool:
    return any(is_attention(part) for part in module.modules())
