"""A combination at work: what it reads of a record, and what it adds to it."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmkd.distiller.members.blame import retold
from mmkd.distiller.members.kinds.combine import Combine
from mmkd.structures.batch import resize_labels
from mmkd.structures.record import Record


@dataclass(eq=False)
class Combined:
    """A teacher that is made of other members in every step.

    Args:
        name: The name that references use.
        of: The members.
        rule: How they are combined.
        taps: The taps that objectives read.
    """

    name: str
    of: tuple[str, ...]
    rule: Combine
    taps: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """How errors call it."""
        return f'teacher {self.name!r}'

    def only(self, references: Container[str]) -> 'Combined':
        """Return it with those taps alone that are among these ``'member.tap'``."""
        return replace(self, taps=[tap for tap in self.taps if f'{self.name}.{tap}' in references])

    def build(self, record: Record) -> str:
        """Make the parts that only shapes decide; return what was made, in words."""
        made = ''
        for tap in self.taps:
            try:
                made = self.rule.build(self._values(tap, record))
            except (ValueError, TypeError) as error:
                raise retold(error, self._told(tap, error)) from error
        return f'{self.where} of {", ".join(self.of)}: {made}' if made else ''

    def __call__(self, record: Record) -> dict[str, Tensor]:
        """Return tap name -> tensor, of members that have run."""
        seen = {}
        for tap in self.taps:
            values = self._values(tap, record)
            try:
                with torch.set_grad_enabled(self.rule.learns and torch.is_grad_enabled()):
                    seen[tap] = self._say(tap, values, record)
            except (ValueError, TypeError) as error:
                raise retold(error, self._told(tap, error)) from error
        return seen

    def _say(self, tap: str, values: list[Tensor], record: Record) -> Tensor:
        if self.rule.recalls:
            return self.rule.recall(tap, values[0], record.batch.repeated_at)
        labels = self._labels(record, values[0]) if self.rule.reads_labels else None
        return self.rule(values, labels)

    def _told(self, tap: str, error: Exception) -> str:
        return f'{self.where}, tap {tap!r} of {", ".join(self.of)}: {error}'

    def _values(self, tap: str, record: Record) -> list[Tensor]:
        return [record[member][tap] for member in self.of]

    def _labels(self, record: Record, like: Tensor) -> Tensor:
        """Return the labels at the size of a member's map, −1 where there is none."""
        batch = record.batch
        return resize_labels(batch.labels.where(batch.valid, -1), tuple(like.shape[2:]))


def spread(references: Iterable[str], combined: Mapping[str, Any]) -> list[str]:
    """Return ``'member.tap'`` of members that run, in place of those of combinations.

    >>> spread(['a.x', 'both.x'], dict(both=Combined('both', ('a', 'b'), Combine())))
    ['a.x', 'b.x']
    """
    found: list[str] = []
    for reference in references:
        member, tap = reference.split('.', 1)
        members = combined[member].of if member in combined else (member,)
        found += [f'{one}.{tap}' for one in members]
    return list(dict.fromkeys(found))
