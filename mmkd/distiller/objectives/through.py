"""Through a teacher's head: what an objective does with the end of a teacher."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mmkd.distiller.members.head import Head, cut_heads
from mmkd.distiller.objectives.auto import Side, is_auto
from mmkd.distiller.objectives.class_logits import LabelSet
from mmkd.distiller.objectives.reads import Reads
from mmkd.distiller.objectives.references import follow, references, resolve
from mmkd.losses.functional import widen
from mmkd.losses.roles import Map
from mmkd.structures.record import Record
from mmkd.utils.checks import check_keys

KEYS = ('at', 'align', 'gives')
ARGUMENT, LIKE = 'student', 'teacher'


class Through:
    """Let the student's tensor pass the end of a teacher, before a loss compares it.

    The end is the modules that lead from one of the teacher's taps to another. It is frozen and in
    eval mode: gradient passes it, to the student and to the connector before it.

    Args:
        where: How errors call the objective.
        given: ``teacher_head`` of the objective: True, a reference, a list of them, or
            dict(at=…, align=True, gives='student_logits').
        reads: What the objective reads.
        known: Member -> names of the taps that it offers.

    Attributes:
        starts: References of the taps that the student's tensor, or each of a list, stands in for.
        ends: Those of what the teacher makes of it, which the loss reads.
        align: Whether it is brought to the mean and deviation of the teacher's channels before.
        gives: The argument of the loss that arrives: 'student', which it takes the place of, or
            another one beside it, 'student_logits', which is compared with 'teacher_logits'.

    Raises:
        TypeError: No such value, or an unknown key.
        ValueError: The loss does not read one student and one teacher, or the head is another's.
    """

    def __init__(
        self, where: str, given: Any, reads: Reads, known: Mapping[str, list[str]]
    ) -> None:
        at, self.align, self.gives = _read(where, given)
        other = self.gives.replace(ARGUMENT, LIKE, 1)
        _check_reads(where, reads, other)
        self.where, self.listed = where, isinstance(reads[ARGUMENT], list)
        self.passing, self.ends = references(reads[ARGUMENT]), references(reads[other])
        teacher = self.ends[0].split('.')[0]
        if at is True:
            at = [f'{teacher}.{one.split(".")[1]}' for one in self.passing]
        listed = list(at) if isinstance(at, list | tuple) else [at]
        self.starts = [resolve(one, known, f'{where}: teacher_head') for one in listed]
        owners = {str(one).split('.')[0] for one in [*self.starts, *self.ends]}
        if owners != {teacher}:
            raise ValueError(
                f'{where}: teacher_head={at!r} leads to {other}={reads[other]!r} within one '
                f"teacher. Mend: teacher_head='{teacher}.<tap>'"
            )
        numbers = len(self.starts), len(self.passing), len(self.ends)
        if len(set(numbers)) > 1:
            raise ValueError(
                f'{where}: teacher_head has {numbers[0]} taps for {numbers[1]} tensors of the '
                f'student and {numbers[2]} of the teacher. Mend: one for each'
            )
        self.heads: list[Head] = []

    @property
    def replaces(self) -> bool:
        """Whether the loss is given what passed in place of the student's tensor."""
        return self.gives == ARGUMENT

    # ------------------------------------------------------------------ before training

    def check_beside(self, connectors: dict[str, Any], class_map: Any) -> dict[str, Any]:
        """Return the connectors of the objective: the student's is 'auto' where none is given.

        Args:
            connectors: As they are given.
            class_map: Of the objective.

        Raises:
            KeyError: A connector of something else than the student.
            ValueError: A class map; 'auto' of a list.
        """
        if class_map is not None:
            raise ValueError(
                f"{self.where}: behind the teacher's head both sides say the teacher's classes, so "
                'class_map has nothing to map. Mend: leave it out'
            )
        others = [one for one in connectors if one != ARGUMENT]
        if others:
            raise KeyError(
                f'{self.where}: teacher_head goes with a connector of {ARGUMENT!r}, got '
                f"connectors of {others}. Mend: connectors=dict(student='auto')"
            )
        if self.listed and is_auto(connectors.get(ARGUMENT)):
            raise ValueError(
                f"{self.where}: connectors=dict(student='auto') fits one map, but {ARGUMENT} is a "
                'list. Mend: an objective for each, or maps of as many channels'
            )
        return connectors if self.listed else {ARGUMENT: 'auto', **connectors}

    def label_sets(self, known: Mapping[str, LabelSet]) -> dict[str, LabelSet]:
        """Return reference -> label set, of the student's that of the teacher whose head it passes.

        Args:
            known: Reference -> label set.
        """
        theirs = known.get(self.ends[0], LabelSet(''))
        return {**known, **dict.fromkeys(self.passing, theirs)}

    def refuse_other_labels(self, known: Mapping[str, LabelSet]) -> None:
        """Refuse labels of the student's classes beside logits of other classes.

        Args:
            known: Reference -> label set.

        Raises:
            ValueError: Names both numbers.
        """
        sides = self.passing[0], self.ends[0]
        own, theirs = (known.get(one, LabelSet('')).classes for one in sides)
        if own is not None and theirs is not None and own != theirs:
            raise ValueError(
                f"{self.where} reads labels, of the student's {own} classes, but behind the "
                f"teacher's head there are the teacher's {theirs}. Mend: a loss and where= that "
                'read no labels'
            )

    def sides(self, x: Side, record: Record) -> tuple[Side, Side]:
        """Return what a connector fits: the student's tensor, and the one that it stands in for.

        Args:
            x: The student's.
            record: What the taps saw.
        """
        like, role = self.like(record), Map()
        if isinstance(x.tensor, Tensor) and x.tensor.dim() == 4 and like.dim() == 2:
            # its places are averaged afterwards
            like, role = like[..., None, None], Map(alike=('channels',))
        return replace(x, role=role, labels=None), Side(LIKE, self.starts[0], like, role)

    def cut(self, runs: Mapping[str, Any], batch: Any) -> str:
        """Find the heads; return what they are made of, in words.

        Args:
            runs: Member -> what runs it.
            batch: Images that the teacher is run on.

        Raises:
            ValueError: The teacher has no such head.
        """
        member = self.starts[0].split('.')[0]
        starts, ends = (_taps_of(each) for each in (self.starts, self.ends))
        try:
            self.heads = cut_heads(runs.get(member), [*zip(starts, ends, strict=True)], batch)
        except ValueError as error:
            raise ValueError(f'{self.where}: {error}') from error
        modules = [', '.join(head.modules) or 'nothing' for head in self.heads]
        return f'{self.where}: the student passes {" | ".join(dict.fromkeys(modules))} of {member}'

    # ------------------------------------------------------------------ the flow

    def like(self, record: Record) -> Tensor:
        """Return the teacher's tensor that the student's stands in for, of a list the first."""
        return follow(self.starts[0], record)

    def __call__(self, value: Any, record: Record) -> Any:
        """Return what the teacher makes of the student's tensor, or of each of a list."""
        values = value if self.listed else [value]
        made = [
            head(self._fitted(one, follow(start, record)))
            for head, one, start in zip(self.heads, values, self.starts, strict=True)
        ]
        return made if self.listed else made[0]

    def _fitted(self, x: Tensor, teacher: Tensor) -> Tensor:
        """Return a tensor as the head reads it: of a vector's head, the mean over places."""
        if x.dim() == 4 and teacher.dim() == 2:
            x = x.mean((2, 3))
        if x.dim() != teacher.dim() or x.shape[1] != teacher.shape[1]:
            each = 'an objective for each of the list, with ' if self.listed else ''
            raise ValueError(
                f"the teacher's head reads {tuple(teacher.shape)} and is given {tuple(x.shape)}. "
                f"Mend: {each}connectors=dict(student='auto')"
            )
        return aligned(x, teacher) if self.align else x


def aligned(x: Tensor, like: Tensor, least: float = 1e-6) -> Tensor:
    r"""Return a map whose channels have the mean and the deviation of another's.

    .. math:: \hat x_c = \frac{x_c - \mathrm{mean}(x_c)}{\mathrm{std}(x_c)}\,
              \mathrm{std}(t_c) + \mathrm{mean}(t_c)

    Both are taken over the batch of this device and all of its places, those that are padded or do
    not count as well. A constant channel becomes the other's mean.

    Args:
        x: Map (N, C, \*S).
        like: Map of as many channels; receives no gradient.
        least: A deviation below it counts as it.

    >>> import torch
    >>> aligned(torch.tensor([[[1., 3.]]]), torch.tensor([[[10., 30.]]]))
    tensor([[[10., 30.]]])
    """
    x, like = widen(x, like.detach())
    axes = [axis for axis in range(x.dim()) if axis != 1]
    mean, there = (one.mean(axes, keepdim=True) for one in (x, like))
    # clamped below the root, whose gradient at 0 is infinite
    own, other = (
        (one - middle).square().mean(axes, keepdim=True).clamp(min=least**2).sqrt()
        for one, middle in ((x, mean), (like, there))
    )
    return (x - mean) * (other / own) + there


def _read(where: str, given: Any) -> tuple[Any, bool, str]:
    """Return the taps that a head begins at, True for those of the student's names, and options."""
    whole = given if isinstance(given, Mapping) else dict(at=given)
    check_keys(whole, KEYS, f'{where}: teacher_head')
    at, align = whole.get('at', True), whole.get('align', False)
    gives = whole.get('gives', ARGUMENT)
    listed = list(at) if isinstance(at, list | tuple) else [at]
    written = at is True or (bool(at) and all(isinstance(one, str) for one in listed))
    if not written or not isinstance(align, bool) or not str(gives).startswith(ARGUMENT):
        raise TypeError(
            f"{where}: teacher_head is True, a tap of the teacher ('teacher.feat'), a list of them "
            "or dict(at='teacher.feat', align=True, gives='student_logits'), got "
            f"{given!r}. Mend: teacher_head='teacher.feat'"
        )
    return at, align, gives


def _taps_of(each: list[str]) -> list[str]:
    return [one.split('.', 1)[1] for one in each]


def _check_reads(where: str, reads: Reads, other: str) -> None:
    missing = [one for one in (ARGUMENT, other) if one not in reads.members]
    if missing or reads.streams:
        raise ValueError(
            f'{where}: teacher_head is for a loss that compares {ARGUMENT} and {other}, and this '
            f"one reads {sorted(reads)}. Mend: leave it out; or reads=dict(student='student.feat', "
            f"{other}='teacher.logits')"
        )
    if len({isinstance(reads[one], list) for one in (ARGUMENT, other)}) > 1:
        raise ValueError(
            f'{where}: teacher_head leads from one tensor to one, or from each of a list to each '
            f'of a list, got student={reads[ARGUMENT]!r}, {other}={reads[other]!r}. Mend: as many '
            'of both'
        )
