"""What a member's forwards call: traced before training, for points and for the doctor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mmkd.distiller.members.blame import blaming
from mmkd.distiller.members.frozen import frozen_mode, run_frozen
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.stand_in import stand_in
from mmkd.distiller.taps.points import Found, choose, find_points, read_point
from mmkd.distiller.taps.tappable import is_dropout
from mmkd.distiller.taps.tracing import trace
from mmkd.structures.batch import Batch
from mmkd.structures.trace import Call, Trace, tensors
from mmkd.tasks.base import task_of
from mmkd.utils.explain import explain


@dataclass
class Traced:
    """Two forwards of a member.

    Args:
        prediction: How it predicts; None where it cannot.
        role: How it runs in a training.
        points: Point -> taps, its own ``points=`` first.
        reason: Why it cannot predict, in words.
    """

    prediction: Trace | None
    role: Trace
    points: Found
    reason: str = ''

    def choose(self, name: str, tap: str, where: str) -> str:
        """Return the tap that ``'auto:…'`` stands for.

        Args:
            name: Of the tap.
            tap: What was written.
            where: How errors call the member.

        Raises:
            KeyError: There is no such point; tells what could be tapped in its place.
        """
        point, _ = read_point(name, tap, where)
        try:
            return choose(name, tap, self.points, where)
        except KeyError as error:
            if self.points.get(point):
                raise
            alone = Traced(None, self.prediction or self.role, self.points)
            last = [row for row in rows_of(alone) if len(row.shape) in (2, 4)][-6:]
            offered = ', '.join(f'{row.tap!r} {row.shape[1:]}' for row in reversed(last))
            why = f', since it does not predict ({self.reason})' * bool(self.reason)
            raise KeyError(
                f'{error.args[0]}{why}. What it made last: {offered}. Mend: '
                f"points=dict({point}='…') of the member, or the path in place of {tap!r}"
            ) from None


def trace_member(member: Member, model: nn.Module, batch: Batch) -> Traced:
    """Run a member once as it predicts and once as it will run in a training.

    A student is a stand-in, so that nothing of it changes, and computes its losses; a teacher is
    the model itself, in eval mode.

    Args:
        member: Its description.
        model: Its model.
        batch: One generated image, with labels that students can learn from.
    """
    reason = ''
    if member.role == 'student':
        prediction, role, reason = _trace_student(member, model, batch)
    else:
        prediction = role = _trace_teacher(member, model, batch)
    found = find_points(task_of(model), model, prediction, role) | member.points
    return Traced(prediction, role, found, reason)


def _trace_student(
    member: Member, model: nn.Module, batch: Batch
) -> tuple[Trace | None, Trace, str]:
    x, samples = batch.inputs, batch.data_samples
    copy = stand_in(model, member.where, torch.Generator().manual_seed(0))
    mode = 'loss' if samples else 'tensor'
    with blaming(member.where, copy, mode, x):
        role = trace(copy, x, partial(copy, x, samples, mode=mode))
    copy.eval()
    try:
        prediction = trace(copy, x, partial(task_of(copy).predict, copy, x, samples))
    except Exception as error:  # it can be trained all the same, by points or paths of its own
        return None, role, explain(error)
    return prediction, role, ''


def _trace_teacher(member: Member, model: nn.Module, batch: Batch) -> Trace:
    x, samples, size = batch.inputs, batch.data_samples, member.options.get('input_size')
    if size is not None:
        samples = task_of(model).resized(samples, x.shape[2:], size)
        x = F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=False)
    model.eval()
    mode = frozen_mode(model)
    with blaming(member.where, model, mode, x):
        return trace(model, x, partial(run_frozen, model, mode, x, samples))


@dataclass(frozen=True)
class Row:
    """One tensor that a call made.

    Args:
        tap: How it is tapped.
        shape: Its shape.
        stride: Pixels of the image from one position to the next; '' where it is no map.
        marks: Which points it is, and what came before.
    """

    tap: str
    shape: tuple[int, ...]
    stride: str
    marks: str


def rows_of(traced: Traced) -> Iterator[Row]:
    """Yield what a tap may read, in the order in which it was made.

    Of a backbone's modules only those at its top are told, and those that are a point.
    """
    role = traced.role
    named: dict[str, list[str]] = {}
    for point, taps in traced.points.items():
        for index, tap in enumerate(taps):
            named.setdefault(tap, []).append(point if len(taps) == 1 else f'{point}[{index}]')
    told = set()
    for call in role.calls:
        inner = call.path.startswith('backbone.') and call.path.count('.') > 1
        for place, made in tensors(call.output) if call.hooked else ():
            tap = role.tap(call, place)
            told |= {tap, f'{tap}:input'}
            if not inner or tap in named:
                yield _row(tap, made, call, role, named)
    for tap, points in named.items():
        if tap not in told:  # a side that no module returns: ':scores', ':query'
            yield Row(tap, (), '', f'= {", ".join(points)}')


def _row(tap: str, made: Any, call: Call, role: Trace, named: dict[str, list[str]]) -> Row:
    marks = [f'= {point}' for point in named.get(tap, ())]
    marks += [f':input = {point}' for point in named.get(f'{tap}:input', ())]
    if is_dropout(call.module):
        marks.append('after dropout')
    return Row(tap, tuple(made.shape), stride(made.shape, role.size), ', '.join(marks))


def stride(shape: Sequence[int], size: Sequence[int]) -> str:
    """Return the pixels of an image from one position of a map to the next, '' of no map.

    >>> stride((1, 512, 64, 128), (512, 1024)), stride((1, 512), (512, 1024))
    ('8', '')
    """
    if len(shape) != 4 or len(size) != 2:
        return ''
    steps = [f'{whole / part:.3g}' for whole, part in zip(size, shape[2:], strict=True)]
    return steps[0] if steps[0] == steps[1] else '×'.join(steps)
