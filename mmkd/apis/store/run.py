"""Stores: the disk is looked at first, then iteration by iteration, on from where it stopped."""

import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_rank, is_main_process
from mmengine.runner import Runner

from mmkd.apis.store.batches import TrainingBatches
from mmkd.apis.store.teachers import Teachers
from mmkd.utils.atomic import PART
from mmkd.utils.progress import track
from mmkd.utils.stored.facts import tell_differences
from mmkd.utils.stored.manifest import FILE, Manifest, read_manifest
from mmkd.utils.stored.precision import Precision, size_of
from mmkd.utils.stored.shards import (
    PROBE,
    SHARD_BYTES,
    Entry,
    Writer,
    shards_of,
    stored_until,
    write_tensors,
)
from mmkd.utils.unwrap import unwrap
from mmkd.utils.work_dir import LOCK, hold, on_main_process, release, sweep


def store(
    runner: Runner,
    folder: str | Path,
    precision: Precision,
    iterations: int | None = None,
    tell: Callable[[str], None] = print,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Write what the objectives of a config read of its teachers, for every iteration.

    A folder that holds a part of the same goes on. It is held meanwhile, as a run holds its own.

    Args:
        runner: Of the config, its model a Distiller.
        folder: Where it goes; each process has a folder of its own in it.
        precision: How tensors are kept.
        iterations: How many; None takes all of the run.
        tell: Is told what it takes before it begins, and what came of it.
        shard_bytes: Of a file, about.

    Returns:
        What the folder says of itself.

    Raises:
        OSError: It does not fit on the disk.
        RuntimeError: Another store, or a run, that lives holds the folder.
        ValueError: There is nothing that could be stored; the folder holds something else; more
            iterations than the run has.
    """
    folder, rank = Path(folder), get_rank()
    model = unwrap(runner.model)
    teachers = Teachers(model, precision)
    batches = TrainingBatches(runner, model)
    end = _end(iterations, batches.length)
    model.broadcast_teachers()
    entry = teachers.say(next(batches.between(0, 1)))
    manifest = teachers.describe(runner.cfg, batches, entry)
    _refuse_other(folder, manifest)
    done = stored_until(shards_of(folder, rank))
    for line in _table(manifest, entry):
        tell(line)
    _refuse_full(folder, entry.size * max(0, end - done), end, done, tell)
    barrier()  # all have looked at the folder before it is written to
    on_main_process(partial(_take, folder))
    try:
        if is_main_process() and not (folder / FILE).is_file():
            write_tensors(teachers.probe(), folder / PROBE)
            manifest.write(folder)
        barrier()
        _write(teachers, batches.between(done, end), folder, done, end, shard_bytes)
        barrier()
    finally:
        if is_main_process():
            release(folder)
    tell(f'{folder} holds iterations 0 to {max(done, end)}')
    return read_manifest(folder)


def _end(iterations: int | None, length: int) -> int:
    if iterations is not None and iterations > length:
        raise ValueError(
            f'--iters {iterations}, but the run of this config has {length}. Mend: --iters '
            f'{length}, or leave it out'
        )
    return length if iterations is None else iterations


def _refuse_other(folder: Path, manifest: Manifest) -> None:
    """Refuse a folder with something else in it."""
    if not (folder / FILE).is_file():
        there = [] if not folder.is_dir() else [p.name for p in folder.iterdir()]
        others = sorted(name for name in there if not _is_of_store(name))
        if others:
            raise ValueError(
                f'{folder} is no folder of stored outputs and not empty ({others[0]}, …). '
                'Mend: --out of a folder of its own'
            )
        return
    text = tell_differences(read_manifest(folder).facts, manifest.facts)
    if text:
        raise ValueError(
            f'{folder} holds what was stored for something else: {text}. Mend: --out of another '
            'folder, or remove this one'
        )


def _is_of_store(name: str) -> bool:
    """Return whether a store leaves this in its folder, one too that was killed at its first file.

    >>> [_is_of_store(name) for name in ('rank0', 'probe.pt.17.part', 'run.lock', 'thesis.tex')]
    [True, True, True, False]
    """
    whole = re.sub(rf'\.\d+{re.escape(PART)}$', '', name)
    return whole.startswith('rank') or whole in (PROBE, FILE, LOCK)


def _take(folder: Path) -> None:
    """Hold the folder, and delete what killed stores left half written in it."""
    hold(folder)
    sweep(folder, *folder.glob('rank*'))


def _table(manifest: Manifest, entry: Entry) -> Iterator[str]:
    for name, teacher in manifest.teachers.items():
        for tap, one in teacher.taps.items():
            size = _readable(size_of(entry.taps[name][tap]))
            yield f'{name}.{tap} = {one.path} {tuple(one.shape)} in {one.kept}: {size} an iteration'


def _refuse_full(
    folder: Path, needed: int, end: int, done: int, tell: Callable[[str], None]
) -> None:
    """Say how much disk it takes, all processes together; refuse what does not fit."""
    total = torch.tensor([needed], dtype=torch.float64)
    all_reduce(total)
    needed = int(total.item())
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    goes_on = f', of which {done} are there' * bool(done)
    tell(f'{end} iterations{goes_on}: {_readable(needed)} in {folder}; free are {_readable(free)}')
    if needed > free:
        raise OSError(
            f'{_readable(needed)} do not fit: {there} has {_readable(free)} free. Mend: --out on '
            'another disk, --dtype bf16 or --top-k K, or fewer --iters'
        )


def _readable(size: float) -> str:
    """Return bytes as people read them.

    >>> _readable(300), _readable(3 * 2**19), _readable(5 * 2**31)
    ('300 B', '1.5 MiB', '10 GiB')
    """
    for unit in ('B', 'KiB', 'MiB', 'GiB'):
        if size < 1024 or unit == 'GiB':
            break
        size /= 1024
    return f'{size:.3g} {unit}'


def _write(
    teachers: Teachers, batches: Iterator[Any], folder: Path, done: int, end: int, limit: int
) -> None:
    writer = Writer(folder, get_rank(), done, limit)
    try:
        for batch in track(batches, max(0, end - done), 'storing'):
            writer.add(teachers.say(batch))
    finally:
        writer.flush()  # after Ctrl-C too: what was computed is not computed again
