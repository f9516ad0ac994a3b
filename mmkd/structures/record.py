"""The record of one step: what taps saw of each member, and running statistics over several."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmkd.structures.batch import Batch


@dataclass(frozen=True)
class Stream:
    """A read of several members that reaches its loss as running statistics, not as a stack.

    Args:
        key: Under which the record holds the statistics.
        references: ``'member.tap'`` of every tensor that they are made of.
        start: Makes the statistics of nothing.
        update: Adds one tensor to them.
    """

    key: str
    references: tuple[str, ...]
    start: Callable[[], Any]
    update: Callable[[Any, Any], None]

    def taps_of(self, member: str) -> Iterator[str]:
        """Return the taps of a member that the statistics are made of.

        >>> stream = Stream('end(teachers)', ('t0.logits', 't1.logits'), list, list.append)
        >>> list(stream.taps_of('t1'))
        ['logits']
        """
        for reference in self.references:
            owner, tap = reference.split('.', 1)
            if owner == member:
                yield tap

    @torch.no_grad()
    def collect(self, seen: Mapping[str, Mapping[str, Any]]) -> Any:
        """Return statistics of what the taps of these members saw, member -> tap -> tensor."""
        statistics = self.start()
        for member, taps in seen.items():
            for tap in self.taps_of(member):
                self.update(statistics, taps[tap])
        return statistics


class Streams:
    """The streams of all objectives.

    Args:
        streams: Each of them.
        kept: References that an objective reads in another way as well.
    """

    def __init__(self, streams: Iterable[Stream] = (), kept: Iterable[str] = ()) -> None:
        self.each = list(streams)
        streamed = {reference for stream in self.each for reference in stream.references}
        self.let_go = streamed - set(kept)


class Record(dict[str, Any]):
    """What objectives read of one step: ``batch``, one dict of tap -> tensor a member, statistics.

    >>> class Mean:
    ...     total = count = 0.0
    ...     def update(self, x): self.total, self.count = self.total + x, self.count + 1
    >>> streams = Streams([Stream('end(teachers)', ('t0.logits', 't1.logits'), Mean, Mean.update)])
    >>> record = Record(Batch(torch.zeros(1)), streams)
    >>> record.add('t0', dict(logits=torch.tensor(1.), feat=torch.tensor(5.)))
    >>> record.add('t1', dict(logits=torch.tensor(3.)))
    >>> record['end(teachers)'].total, list(record['t0']), list(record['t1'])
    (tensor(4.), ['feat'], [])

    Args:
        batch: What the members were run on.
        streams: Reads that are kept as running statistics alone.
    """

    def __init__(self, batch: Batch, streams: Streams | None = None) -> None:
        super().__init__(batch=batch)
        self.streams = streams or Streams()

    @property
    def batch(self) -> Batch:
        """What the members were run on."""
        return self['batch']

    @torch.no_grad()
    def add(self, member: str, seen: dict[str, Any]) -> None:
        """Keep what a member's taps saw; what only statistics need is let go at once."""
        for stream in self.streams.each:
            for tap in stream.taps_of(member):
                if stream.key not in self:
                    self[stream.key] = stream.start()
                stream.update(self[stream.key], seen[tap])
        let_go = self.streams.let_go
        self[member] = {tap: x for tap, x in seen.items() if f'{member}.{tap}' not in let_go}
