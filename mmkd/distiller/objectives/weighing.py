"""Weighing: the parts of an objective's ``where=``, what they read, and their product."""

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmkd.distiller.objectives.class_logits import LabelSet, check_class_logits
from mmkd.distiller.objectives.reads import Reads
from mmkd.distiller.objectives.references import follow, is_of_batch, resolve
from mmkd.registry import build_part
from mmkd.structures.record import Record
from mmkd.where.base import SIDES, Where, at_size


class Weighing(nn.ModuleList):
    """The parts of ``where=`` of one objective, whose weights are multiplied.

    Args:
        objective: How errors call it.
        given: A part, a list of them, or None; each a config or a module.
        loss: That of the objective, which takes the product as ``weight``.
        reads: Argument of the loss -> reference.
        known: Member name -> names of the taps that it offers.

    Attributes:
        reads: Of each part, side -> the reference that it is given in place of what is compared.

    Raises:
        TypeError: No part, or one with weights of its own; a loss that takes no ``weight``.
        KeyError: A reference names an unknown member or tap.
        ValueError: No reference, or the class logits that a part needs are not read.
    """

    def __init__(
        self,
        objective: str,
        given: Any,
        loss: nn.Module,
        reads: Reads,
        known: Mapping[str, list[str]],
    ) -> None:
        super().__init__(_build(objective, given))
        self.as_map = reads.as_map
        self.compared = {side: reads[side] for side in SIDES if isinstance(reads.get(side), str)}
        self.reads = [_resolve(objective, part, known) for part in self.parts]
        if len(self):
            _check_loss(objective, loss, reads)
        for part, own in zip(self.parts, self.reads, strict=True):
            _check_sides(objective, part, {**self.compared, **own})

    @property
    def parts(self) -> list[Where]:
        """The parts, as what they are."""
        return cast(list[Where], list(self))

    @property
    def references(self) -> list[str]:
        """Every ``'member.tap'`` that the parts read themselves."""
        return [reference for reads in self.reads for reference in reads.values()]

    @property
    def reads_labels(self) -> bool:
        """Whether a part reads labels of the batch."""
        return any(part.labels for part in self.parts)

    @property
    def reads_boxes(self) -> bool:
        """Whether a part reads boxes of the batch."""
        return any(part.boxes for part in self.parts)

    @property
    def looking_up_labels(self) -> list[str]:
        """Names of the parts that look labels up among the student's logits that are compared."""
        return [
            type(part).__name__
            for part in self.parts
            if part.labels and 'student' in part.class_logits and 'student' not in part.reads
        ]

    @property
    def skips_unlabelled(self) -> bool:
        """Whether a part gives images without labels the weight 0."""
        return any(part.skips_unlabelled for part in self.parts)

    def forward(self, record: Record, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return the product of the weights, at the size of the loss's map.

        Args:
            record: What the taps saw.
            values: Argument of the loss -> what it is given.
            like: The student's map.
        """
        weight = like.new_ones((), dtype=torch.float32)
        for part, own in zip(self.parts, self.reads, strict=True):
            weight = weight * self._weigh(part, own, record, values, like)
        # A loss leaves out what is below 0, where Inf ends the run.
        return weight.masked_fill(~(weight >= 0), torch.inf)

    def check(
        self,
        record: Record,
        values: Mapping[str, Any],
        like: Tensor,
        label_sets: Mapping[str, LabelSet],
        compared: Mapping[str, LabelSet] | None = None,
    ) -> None:
        """Look at what every part is given and what it gives, before training.

        Args:
            record: What the taps saw.
            values: Argument of the loss -> what it is given.
            like: The student's map.
            label_sets: Reference -> what the class logits of its member are.
            compared: The same of what the loss is given; None: no class map changes it.

        Raises:
            ValueError: No class logits; a weight that is below 0 or not finite.
        """
        for part, own in zip(self.parts, self.reads, strict=True):
            name = f'where {type(part).__name__}'
            for side in part.class_logits:
                reference = {**self.compared, **own}[side]
                sets = label_sets if side in own or compared is None else compared
                check_class_logits(
                    f'{name}: {side}={reference!r}',
                    self._given(side, own, record, values, like),
                    sets.get(reference, LabelSet('')),
                    mend=f"Mend: reads=dict({side}='<member>.<tap of class logits>') in the part",
                )
            weight = self._weigh(part, own, record, values, like)
            if not bool(((weight >= 0) & weight.isfinite()).all()):
                raise ValueError(
                    f'{name} gave weights from {weight.min():.4g} to {weight.max():.4g}. Mend: '
                    'finite numbers, 0 or above'
                )

    def _weigh(
        self,
        part: Where,
        own: Mapping[str, str],
        record: Record,
        values: Mapping[str, Any],
        like: Tensor,
    ) -> Tensor:
        sides = [self._given(side, own, record, values, like) for side in SIDES]
        return at_size(part(record['batch'], *sides), like, type(part).__name__)

    def _given(
        self,
        side: str,
        own: Mapping[str, str],
        record: Record,
        values: Mapping[str, Any],
        like: Tensor,
    ) -> Any:
        """Return what a part is given of a side: its own read, else what the loss compares."""
        if side in own:
            return follow(own[side], record)
        if side in self.compared:
            return self.as_map(side, values[side])
        return like if side == 'student' else None


def _build(objective: str, given: Any) -> list[Where]:
    """Build the parts, each a config or a module."""
    each = given if isinstance(given, list | tuple) else [given] if given is not None else []
    parts = []
    for i, config in enumerate(each):
        several = isinstance(given, list | tuple)
        where = f'{objective}: where[{i}]' if several else f'{objective}: where'
        part = build_part(config, where)
        if not isinstance(part, Where):
            raise TypeError(
                f'{where} is a {type(part).__name__}, which does not say where a loss counts. '
                "Mend: dict(type='BoundaryBand'), or a class of your own below mmkd.where.Where"
            )
        if any(p.requires_grad for p in part.parameters()):
            raise ValueError(
                f'{where}: {type(part).__name__} has weights of its own, which would never be '
                'trained: no gradient reaches where a loss counts. Mend: requires_grad_(False)'
            )
        parts.append(part)
    return parts


def _resolve(objective: str, part: Where, known: Mapping[str, list[str]]) -> dict[str, str]:
    """Check what a part reads of members itself."""
    found = {}
    for side, read in part.reads.items():
        name = f'{objective}: where {type(part).__name__}: {side}'
        found[side] = resolve(read, known, name)
        if isinstance(found[side], list) or is_of_batch(found[side]):
            raise ValueError(
                f'{name} reads one tap of one member, got {read!r}. Mend: '
                f"reads=dict({side}='<member>.<tap>')"
            )
    return found


def _check_loss(objective: str, loss: nn.Module, reads: Mapping[str, Any]) -> None:
    """Refuse a loss that would not hear of it."""
    parameters = inspect.signature(loss.forward).parameters.values()
    if not any(p.name == 'weight' or p.kind == p.VAR_KEYWORD for p in parameters):
        raise TypeError(
            f'{objective}: {type(loss).__name__} takes no weight, so where= would change nothing. '
            'Mend: a loss whose forward has an argument weight (N, *S), such as PixelWiseKLLoss, '
            'ChannelWiseKLLoss or FeatureMatchingLoss; or leave where out'
        )
    if 'weight' in reads:
        raise TypeError(
            f'{objective}: reads and where= both give the weight of {type(loss).__name__}. Mend: '
            'one of them'
        )


def _check_sides(objective: str, part: Where, reads: Mapping[str, str]) -> None:
    """Refuse a part whose class logits nothing gives."""
    for side in part.class_logits:
        if side not in reads:
            raise ValueError(
                f'{objective}: where {type(part).__name__} needs the class logits of one {side}, '
                f"which the loss does not read. Mend: reads=dict({side}='<member>.logits') in the "
                'part'
            )
