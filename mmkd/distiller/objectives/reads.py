"""Reads: what the arguments of a loss are in a record, how they arrive, which carry gradient."""

import inspect
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.distiller.objectives.references import follow, is_of_batch, references, resolve
from mmkd.losses.as_loss import role_of
from mmkd.losses.roles import Many, Map, OfBatch, Role, Running
from mmkd.structures.batch import read_batch
from mmkd.structures.record import Record
from mmkd.utils.checks import check_keys

SIDES = ('student', 'teacher')


class Reads(dict[str, Any]):
    """Argument of a loss -> reference ``'member.tap'``, ``'batch.name'``, or a list of the former.

    Args:
        objective: Name of the objective, for errors.
        reads: The resolved references.
        loss: Whose arguments they are.
        connected: Arguments that pass a connector, which takes a stack and no running statistics.

    Attributes:
        roles: Argument -> how it arrives.
        members: Arguments that are read of members.
        streams: Those of them that arrive as running statistics, with their references.
        class_logits: Those of them that are class logits, the student's first.
    """

    def __init__(
        self,
        objective: str,
        reads: Mapping[str, Any],
        loss: nn.Module,
        connected: Container[str] = (),
    ) -> None:
        super().__init__(reads)
        self.objective = objective
        self.roles: dict[str, Role] = {
            argument: role_of(loss, argument, is_of_batch(read)) for argument, read in reads.items()
        }
        for argument, role in self.roles.items():
            # A single member is a list of one here, which the loss refuses.
            if isinstance(role, Running) and isinstance(self[argument], str):
                self[argument] = [self[argument]]
        self.members = [argument for argument in self if not is_of_batch(self[argument])]
        self.of_batch = [argument for argument in self if is_of_batch(self[argument])]
        self.streams: dict[str, list[str]] = {
            argument: self[argument]
            for argument, role in self.roles.items()
            if isinstance(role, Running) and argument not in connected
        }
        taken = [argument for argument in self.members if self.role(argument).class_logits]
        self.class_logits = sorted(taken, key=lambda argument: not learns(argument))
        self._leader = min(self.members, key=_leads, default=None)

    def role(self, argument: str) -> Map:
        """Return how an argument that is read of members arrives."""
        role = self.roles[argument]
        return role if isinstance(role, Map) else Map(alike=())

    def counterpart(self, argument: str) -> str:
        """Return the read that an argument is compared with, '' for none.

        It is the one of the same name on the other side, else the first other read.
        """
        others = [other for other in self.members if other != argument]
        here, there = SIDES if learns(argument) else SIDES[::-1]
        mirrored = argument.replace(here, there, 1).rstrip('s')
        named = [other for other in others if other.rstrip('s') == mirrored]
        return next(iter(named + others), '')

    def references(self, arguments: Iterable[str]) -> list[str]:
        """Return every ``'member.tap'`` that these arguments read."""
        return [one for argument in arguments for one in references(self[argument])]

    def learned(self) -> list[str]:
        """Return every ``'member.tap'`` that gets a gradient."""
        return self.references(filter(learns, self.members))

    def read(self, argument: str, record: Record) -> Any:
        """Return what an argument is: a tensor, a list of tensors, or running statistics."""
        if argument in self.streams:
            return record[stream_key(self.objective, argument)]
        read, role = self[argument], self.roles[argument]
        stacked = isinstance(read, list) and not isinstance(role, Many)
        value: Any = (
            [follow(r, record) for r in read] if isinstance(read, list) else follow(read, record)
        )
        tensors = value if isinstance(value, list) else [value]
        if not learns(argument):
            tensors = [tensor.detach() for tensor in tensors]
        elif torch.is_grad_enabled():
            self._refuse_without_gradient(argument, tensors)
        if stacked:
            self._refuse_other_shapes(argument, tensors)
            return torch.stack(tensors)
        return tensors if isinstance(value, list) else tensors[0]

    def read_batch(self, argument: str, record: Record, values: Mapping[str, Any]) -> Any:
        """Return a part of the batch; labels and masks at the size of the student's map."""
        role = self.roles[argument]
        whole = isinstance(role, OfBatch) and role.whole
        like = None if whole else self.like(values)
        return read_batch(record['batch'], self[argument].split('.')[1], like)

    def like(self, values: Mapping[str, Any]) -> Any:
        """Return the tensor that gives labels, masks and weights their size: the student's map."""
        if self._leader is None:
            return None
        return self.as_map(self._leader, self.one(self._leader, values[self._leader]))

    def as_map(self, argument: str, value: Any) -> Any:
        """Return tokens (N, L, D) with their places last, as a map has them; all else as it is."""
        tokens = isinstance(value, Tensor) and value.dim() == 3 and self.role(argument).tokens
        return value.mT if tokens else value

    def one(self, argument: str, value: Any) -> Any:
        """Return the tensor whose shape stands for a read.

        It is the first one of a stack or list, and a mean of running statistics.
        """
        if argument in self.streams:
            return _example(value)
        return value[0] if isinstance(self[argument], list) or isinstance(value, list) else value

    def each(self, argument: str, record: Record) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield every reference of an argument with its tensors, one a call of the module."""
        value, found = self.read(argument, record), references(self[argument])
        if argument in self.streams:
            every = [_example(value)] * len(found)
        else:
            every = value if isinstance(self[argument], list) else [value]
        for reference, one in zip(found, every, strict=True):
            yield reference, one if isinstance(one, list) else [one]

    def _refuse_without_gradient(self, argument: str, tensors: list[Tensor]) -> None:
        if all(tensor.requires_grad for tensor in tensors):
            return
        raise RuntimeError(
            f'objective {self.objective!r}: {argument}={self[argument]!r} carries no gradient, so '
            'the student would learn nothing from it. The layer is frozen (frozen_stages, '
            'requires_grad=False), the backbone checkpoints its activations (with_cp=True), or the '
            'reference is a teacher. Mend: tap a trained layer, or with_cp=False'
        )

    def _refuse_other_shapes(self, argument: str, tensors: list[Tensor]) -> None:
        if len({tensor.shape for tensor in tensors}) > 1:
            raise ValueError(
                f'objective {self.objective!r}: {argument} stacks {self[argument]}, whose shapes '
                f'differ: {shapes_of(tensors)}. Mend: taps of one shape in every member'
            )


def _example(statistics: Any) -> Tensor:
    """Return the tensor whose shape stands for running statistics."""
    return statistics.example if hasattr(statistics, 'example') else statistics.mean_prob


def learns(argument: str) -> bool:
    """Return whether gradient flows through this argument of a loss.

    >>> learns('student'), learns('student_key'), learns('teacher')
    (True, True, False)
    """
    return argument == 'student' or argument.startswith('student_')


def _leads(argument: str) -> tuple[bool, bool]:
    """Sort first what gives labels and masks their size: the student's map, else what learns."""
    return argument != 'student', not learns(argument)


def stream_key(objective: str, argument: str) -> str:
    """Return under which a record holds the running statistics of an argument.

    >>> stream_key('end', 'teachers')
    'end(teachers)'
    """
    return f'{objective}({argument})'


def shapes_of(value: Any) -> str:
    """Return the shapes of what a loss is given, as errors print them.

    >>> shapes_of([torch.zeros(2, 3), torch.zeros(4)]), shapes_of(7)
    ("['(2, 3)', '(4,)']", 'int')
    """
    if isinstance(value, list):
        return str([shapes_of(v) for v in value])
    return str(tuple(value.shape)) if hasattr(value, 'shape') else type(value).__name__


def read_references(
    where: str, on: str | None, reads: dict[str, Any], known: Mapping[str, list[str]]
) -> dict[str, Any]:
    """Return argument -> resolved reference of ``on`` and ``reads``.

    Args:
        where: How errors call the objective.
        on: Short for the same tap of the members 'student' and 'teacher'.
        reads: Argument -> reference; they come before ``on``.
        known: Member -> names of the taps that it offers.

    Raises:
        KeyError: ``on`` without members of these names; an unknown member or tap.
        ValueError: Nothing is read; no reference.

    >>> read_references('it', 'logits', {}, dict(student=['logits'], teacher=['logits']))
    {'student': 'student.logits', 'teacher': 'teacher.logits'}
    """
    reads = dict(reads)
    for side in SIDES if on is not None else ():
        if side not in known:
            raise KeyError(
                f"{where}: on={on!r} needs members named 'student' and 'teacher', there are "
                f"{sorted(known)}. Mend: reads=dict(student='<member>.{on}', "
                f"teacher='<member>.{on}')"
            )
        reads.setdefault(side, f'{side}.{on}')
    if not reads:
        raise ValueError(
            f"{where} reads nothing. Mend: on='logits' or reads=dict(student='student.logits', …)"
        )
    return {
        argument: resolve(read, known, f'{where}: {argument}') for argument, read in reads.items()
    }


def check_signature(where: str, loss: nn.Module, reads: Mapping[str, Any]) -> None:
    """Refuse reads that a loss does not take, or of which it cannot learn.

    Raises:
        TypeError: An argument that it does not take, or one that it misses.
        ValueError: No argument carries gradient, and the loss has no parameter.
    """
    where = f'{where}: {type(loss).__name__}'
    parameters = inspect.signature(loss.forward).parameters.values()
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if all(p.kind != p.VAR_KEYWORD for p in parameters):
        check_keys(reads, named, f'{where} reads')
    missing = [n for n, p in named.items() if p.default is p.empty and n not in reads]
    if missing:
        raise TypeError(f'{where} also needs {missing}. Mend: on=…, or reads=dict({missing[0]}=…)')
    if not any(map(learns, reads)) and not any(True for _ in loss.parameters()):
        raise ValueError(
            f"{where} reads {sorted(reads)}, but only an argument 'student' or 'student_…' carries "
            'gradient, so nothing would learn from it. Mend: name the argument of the loss so'
        )


def check_peers(where: str, reads: Mapping[str, Any]) -> None:
    """Refuse a network that teaches itself.

    Raises:
        ValueError: Student and teacher read the same.
    """
    student, teacher = (reads.get(side) for side in SIDES)
    if student is not None and student == teacher:
        raise ValueError(
            f'{where}: student and teacher both read {student!r}, and a network has nothing to '
            'learn from itself. Mend: another member, or another tap, on one of the sides; peers '
            'that teach each other are two or more'
        )
