"""Points: what objectives usually read, found in a traced forward and not by a table of heads.

``logits`` is what becomes the class map or the vector of classes, before any resize; of detectors
the finest level's, ``logits[1]`` the next one's. ``feature`` is what the classifier reads, before
its dropout. ``stages[i]`` and ``neck[i]`` are the maps of backbone and neck, ``hidden[i]`` the
tokens after each block, ``query[i]``, ``key[i]`` and ``attention[i]`` what its heads compare and
give. ``depth`` is a depth estimator's map in metres, ``edges[i]`` a detector's distributions of
where the edges of boxes lie.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from mmkd.distiller.taps.attention import gives_heads, gives_probabilities, is_attention
from mmkd.distiller.taps.tappable import is_dropout
from mmkd.structures.trace import Call, Trace, is_same, tensors
from mmkd.tasks.base import Task
from mmkd.tasks.queries import class_map, queries_of
from mmkd.utils.checks import nearest

POINTS = (
    *('logits', 'feature', 'stages', 'neck', 'hidden', 'query', 'key', 'attention'),
    *('depth', 'edges'),
)
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


def find_points(task: Task, model: nn.Module, prediction: Trace | None, role: Trace) -> Found:
    """Return the taps of every point that a model has.

    Args:
        task: What the model does.
        model: The model that was traced.
        prediction: A prediction of it; None where that fails: then classes are not looked for.
        role: The forward that it runs in a training: that of a student computes its losses, and
            may call a module several times.
    """
    found: Found = {}
    if prediction is not None:
        found |= _classes(task, model, prediction, role)
        found['depth'] = _measured(task, model, prediction, role)
        made = [_call_of(one, prediction, role) for one in task.edges(model, prediction)]
        found['edges'] = [role.tap(*call) for call in made if call is not None]
    for point, path in dict(stages='backbone', neck='neck').items():
        found[point] = _maps_of(path, role)
    found['hidden'] = [role.tap(call, index) for call, index in _blocks(model, role)]
    attention = [call for call in role.calls if call.hooked and is_attention(call.module)]
    heads = [call for call in attention if gives_heads(call.module)]
    found['query'] = [role.tap(call, side=':query') for call in heads]
    found['key'] = [role.tap(call, side=':key') for call in heads]
    found['attention'] = [
        role.tap(call, (1,), side=':output')
        for call in attention
        if gives_probabilities(call.module)
    ]
    return {point: taps for point, taps in found.items() if any(taps)}


def _classes(task: Task, model: nn.Module, prediction: Trace, role: Trace) -> Found:
    """Return where classes are said, and what says them reads."""
    calls = [_call_of(tensor, prediction, role) for tensor in task.says(model, prediction)]
    known = [_before_resize(*call, role) for call in calls if call is not None]
    if known:
        logits = [role.tap(*one) for one in known]
        classifier, _ = _before_resize(*known[0], role, intact=False)
        return dict(logits=logits, feature=[_read_by(classifier, role)])
    head = task.head_path(model)
    answers = role.of(head) if head is not None and task.class_logits is not None else []
    if not answers:
        return {}
    return _of_answer(str(head), answers[-1], task.channels(model), role)


def _of_answer(head: str, answer: Call, channels: int | None, role: Trace) -> Found:
    """Return the points of a head whose answer no module made.

    Queries are assembled. Where one module made scores, they were resized or changed place by
    place afterwards; a sum of several has no feature.
    """
    try:
        said = class_map(answer.output)
    except TypeError:
        return {}
    scores = [f'{head}:scores']
    if queries_of(answer.output) is not None:
        return dict(logits=scores, feature=[_last_map(answer, said, role)])
    inside = [call for call in role.calls if call.path.startswith(f'{head}.') and call.hooked]
    made = [(call, *one) for call in inside for one in _maps(call, role)]
    made = [one for one in made if one[2].shape[1] == channels]
    paths = {call.path for call, _, _ in made}
    if not made:  # it works on tokens
        return dict(logits=scores, feature=[_last_map(answer, said, role)])
    if len(paths) > 1:
        return dict(logits=scores)
    call, index, scored = made[-1]
    resized = scored.shape[2:] != said.shape[2:]
    logits = [role.tap(call, index)] if resized else scores
    return dict(logits=logits, feature=[_read_by(call, role)])


def _before_resize(
    call: Call, index: tuple, role: Trace, intact: bool = True
) -> tuple[Call, tuple]:
    """Return the call before those without weights: an ``nn.Upsample``, an activation."""
    while not index and not any(True for _ in call.module.parameters()):
        given = next(iter(call.inputs.values()), None)
        if given is None or not _alike(given, call.output):
            break
        earlier = role.maker(given, intact)
        if earlier is None or earlier[0] is call:
            break
        call, index = earlier
    return call, index


def _alike(given: Any, made: Any) -> bool:
    """Return whether both are maps of as many channels."""
    maps = isinstance(given, Tensor) and isinstance(made, Tensor) and given.dim() == made.dim() == 4
    return maps and given.shape[1] == made.shape[1]


def _measured(task: Task, model: nn.Module, prediction: Trace, role: Trace) -> list[str]:
    """Return where depth is: of a module, or of the head whose answer no module made."""
    found = []
    for tensor in task.measures(model, prediction):
        made = _call_of(tensor, prediction, role)
        head = task.head_path(model)
        found.append(role.tap(*made) if made is not None else f'{head}:scores')
    return found


def own_points(points: Mapping[str, Any] | None, where: str) -> Found:
    """Return a member's own ``points=``, each as a list.

    Raises:
        KeyError: There is no such point.
        TypeError: Neither a tap nor a list of taps.
        ValueError: ``'auto'``, which names a point and says of none where it is.

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
        if isinstance(listed, list | tuple) and any(map(is_point, listed)):
            raise ValueError(
                f'points of {where}: {point} says where a point is, got {taps!r}, which names one. '
                "Mend: the path of a module, such as 'decode_head.conv_seg'"
            )
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
    place = next((key for key, given in call.inputs.items() if _is_feature(given)), None)
    if place is None:
        return ''
    read = call.inputs[place]
    for other in reversed(role.calls[: role.calls.index(call)]):
        through = is_dropout(other.module) and is_same(other.output, read)
        if through and not getattr(other.module, 'inplace', False):
            return role.tap(other, side=':input')
    return role.tap(call, (place,) if place else (), ':input')


def _is_feature(value: Any) -> bool:
    return hasattr(value, 'dim') and value.dim() in (2, 4)


def _last_map(answer: Call, scores: Tensor, role: Trace) -> str:
    """Return the last map that was made before a head answered, of the size of its scores."""
    said = [made for _, made in tensors(answer.output)]  # the masks of queries are no feature
    before = role.calls[: role.calls.index(answer)]
    found = [(call, *one) for call in before for one in _maps(call, role)]
    found = [one for one in found if not _is_among(one[2], said)]
    alike = [one for one in found if one[2].shape[2:] == scores.shape[2:]] or found
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
        for index, made in reversed(call.made):
            if made.dim() == 4 and made.shape[0] == role.images and min(made.shape[2:]) > 1:
                yield index, made


def _maps_of(path: str, role: Trace) -> list[str]:
    calls = [call for call in role.of(path) if call.hooked]
    if not calls:
        return []
    maps = [index for index, made in tensors(calls[0].output) if made.dim() == 4]
    # of one map in a tuple too the index is needed
    return [role.tap(calls[0], index) for index in maps]


def _blocks(model: nn.Module, role: Trace) -> list[tuple[Call, tuple]]:
    """Return the calls of transformer blocks, with the index of their tokens (N, L, D).

    A block is an item of a list that attends and does more than that; a stage or a group that
    holds blocks is none.
    """
    lists = {path for path, one in model.named_modules() if isinstance(one, nn.ModuleList)}
    found = []
    for call in role.calls:
        tokens = next(iter(call.made), ((), None))
        block = call.hooked and call.path.rpartition('.')[0] in lists and _is_block(call.module)
        if block and tokens[1] is not None and tokens[1].dim() == 3:
            found.append((call, tokens[0]))
    paths = {call.path for call, _ in found}
    return [one for one in found if not _holds(one[0].path, paths)]


def _holds(path: str, others: Iterable[str]) -> bool:
    return any(other.startswith(f'{path}.') for other in others)


def _is_block(module: nn.Module) -> bool:
    attention = [part for part in module.modules() if is_attention(part)]
    own = {id(p) for part in attention for p in part.parameters()}
    return bool(attention) and any(id(p) not in own for p in module.parameters())
