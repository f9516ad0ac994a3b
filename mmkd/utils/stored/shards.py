"""Shards of stored outputs: files of consecutive iterations, written whole, read one ahead."""

import io
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkd.utils.atomic import write_atomically
from mmkd.utils.checks import printable
from mmkd.utils.stored.precision import moved, parts_of, size_of

SHARD_BYTES = 256 * 2**20
MOST_ITERATIONS = 500  # of one shard: each of its tensors is an entry of the file
PROBE = 'probe.pt'
_NAME = re.compile(r'(\d{9})-(\d{9})\.pt')


@dataclass
class Entry:
    """What teachers said in one iteration.

    Args:
        taps: Teacher -> tap -> what was packed.
        names: By which names the batch's images are known; None: they have none.
        look: A few numbers of every input (N, K), by which a batch is known again.
    """

    taps: dict[str, dict[str, Any]]
    names: list[str] | None = None
    look: Tensor | None = None

    @property
    def size(self) -> int:
        """Its bytes, about."""
        packed = [kept for taps in self.taps.values() for kept in taps.values()]
        return sum(map(size_of, packed)) + (0 if self.look is None else size_of(self.look))


@dataclass(frozen=True)
class Shard:
    """A file of the iterations from ``first`` to below ``end``."""

    first: int
    end: int
    path: Path


def folder_of_rank(folder: str | Path, rank: int) -> Path:
    """Return where the shards of a process lie."""
    return Path(folder) / f'rank{rank}'


def shards_of(folder: str | Path, rank: int) -> list[Shard]:
    """Return the shards of a process from iteration 0 on, as far as none is missing."""
    own = folder_of_rank(folder, rank)
    found = []
    for path in own.iterdir() if own.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match:
            found.append(Shard(int(match[1]), int(match[2]), path))
    row: list[Shard] = []
    for shard in sorted(found, key=lambda one: (one.first, one.end)):
        if shard.first == stored_until(row) and shard.end > shard.first:
            row.append(shard)
    return row


def stored_until(shards: list[Shard]) -> int:
    """Return how many iterations a row of shards holds, from iteration 0 on."""
    return shards[-1].end if shards else 0


class Writer:
    """Writes shards of one process.

    Args:
        folder: Of all stored outputs.
        rank: Of the process.
        first: The iteration that is added first.
        limit: Bytes of a shard, about.
    """

    def __init__(
        self, folder: str | Path, rank: int, first: int = 0, limit: int = SHARD_BYTES
    ) -> None:
        self.folder, self.first, self.limit = folder_of_rank(folder, rank), first, limit
        self._entries: list[Entry] = []
        self._size = 0

    def add(self, entry: Entry) -> None:
        """Add the next iteration; a shard that is full is written."""
        self._entries.append(entry)
        self._size += entry.size
        if self._size >= self.limit or len(self._entries) >= MOST_ITERATIONS:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last shard."""
        if not self._entries:
            return
        end = self.first + len(self._entries)
        entries = [dict(vars(entry)) for entry in self._entries]
        path = self.folder / f'{self.first:09d}-{end:09d}.pt'
        write_tensors(dict(first=self.first, entries=entries), path)
        self.first, self._entries, self._size = end, [], 0


def write_tensors(content: Any, path: Path) -> None:
    """Write tensors in plain containers, as a whole or not at all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(buffer.getvalue(), path)


def read_tensors(path: Path) -> Any:
    """Map a file of tensors into memory; nothing of it is run, or read before it is used.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        return torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, pickle and torch have errors of their own
        raise ValueError(
            f'{path} cannot be read ({printable(error)}). Mend: remove it, and mmkd store with the '
            'same arguments writes it again'
        ) from error


def read_shard(shard: Shard) -> list[Entry]:
    """Return the iterations of a shard, their tensors not read yet.

    Raises:
        ValueError: It cannot be read, or holds something else.
    """
    content = read_tensors(shard.path)
    try:
        entries = [Entry(**one) for one in content['entries']]
        if content['first'] != shard.first or len(entries) != shard.end - shard.first:
            raise ValueError('it holds other iterations than its name says')
        for entry in entries:
            for taps in entry.taps.values():
                for kept in taps.values():
                    list(parts_of(kept))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f'{shard.path} is no shard of stored outputs ({printable(error)}). Mend: remove it, '
            'and mmkd store with the same arguments writes it again'
        ) from error
    return entries


@dataclass
class Reader:
    """Reads what one teacher said, iteration by iteration; the next one is read beforehand.

    Args:
        shards: Of :func:`shards_of`.
        teacher: Its name in the shards.
        taps: Those that are read.
        pinned: Whether tensors are to lie where a GPU copies from while it works.
    """

    shards: list[Shard]
    teacher: str
    taps: list[str]
    pinned: bool = False
    _open: tuple[Shard, list[Entry]] | None = None
    _now: tuple[int, Entry] | None = None
    _next: tuple[int, Future] | None = None
    _pool: ThreadPoolExecutor | None = field(default=None, repr=False)

    def read(self, iteration: int) -> Entry:
        """Return an iteration; the same one again costs nothing.

        Raises:
            IndexError: It is not stored.
            ValueError: Its shard cannot be read.
        """
        if self._now is None or self._now[0] != iteration:
            ahead, self._next = self._next, None
            if ahead is not None and ahead[0] == iteration:
                self._now = iteration, ahead[1].result()
            else:
                self._now = iteration, self._run(self._load, iteration).result()
            if iteration + 1 < stored_until(self.shards):
                self._next = iteration + 1, self._run(self._load, iteration + 1)
        return self._now[1]

    def begins_shard(self, iteration: int) -> bool:
        """Return whether an iteration is the first one of its shard."""
        return any(shard.first == iteration for shard in self.shards)

    def close(self) -> None:
        """End the thread that reads ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._open = self._now = self._next = self._pool = None

    def _run(self, function: Callable[[int], Entry], iteration: int) -> Future:
        if self._pool is None:
            # one thread: what is open is never changed by two
            self._pool = ThreadPoolExecutor(1, thread_name_prefix='mmkd-stored')
        return self._pool.submit(function, iteration)

    def _load(self, iteration: int) -> Entry:
        shard = self._find(iteration)
        if self._open is None or self._open[0] != shard:
            self._open = shard, read_shard(shard)
        entry = self._open[1][iteration - shard.first]
        try:
            own = entry.taps[self.teacher]
            taps = {tap: moved(own[tap], self._own_memory) for tap in self.taps}
        except KeyError as error:
            raise ValueError(
                f'{shard.path} holds nothing of {self.teacher!r}, {error}. Mend: remove it, and '
                'mmkd store with the same arguments writes it again'
            ) from error
        return Entry({self.teacher: taps}, entry.names, entry.look)

    def _own_memory(self, value: Tensor) -> Tensor:
        return value.clone().pin_memory() if self.pinned else value.clone()

    def _find(self, iteration: int) -> Shard:
        for shard in self.shards:
            if shard.first <= iteration < shard.end:
                return shard
        raise IndexError(
            f'iteration {iteration} is not stored: there are {stored_until(self.shards)}'
        )


LOOKS = 16


def look_at(inputs: Tensor) -> Tensor:
    """Return a few numbers of every input (N, K), evenly spaced, by which a batch is known again.

    >>> look_at(torch.arange(64.).view(2, 32)).shape
    torch.Size([2, 16])
    """
    flat = inputs.detach().flatten(1)
    places = torch.linspace(0, flat.shape[1] - 1, min(LOOKS, flat.shape[1])).long()
    return flat[:, places.to(flat.device)].double()
