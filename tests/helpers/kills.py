"""Runs that are killed wherever they touch the disk, and whenever; resumed, they leave what they
would have left.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.processes import forked
from helpers.runs import run_config, train
from mmengine.logging import HistoryBuffer

from mmkd.utils.checkpoints import load_checkpoint_file
from mmkd.utils.work_dir import LOCK

TOUCHES = ('fsync', 'replace', 'unlink', 'remove')  # every write is a sync, a rename and a sync
TIMES = ('time', 'data_time', 'eta', 'memory', 'mmengine_version')  # with the commit of today


def start(folder: Path, name: str, resume: bool = False) -> None:
    """Train six iterations: checkpoints, validations and students every other, one kept, and the
    best.
    """
    cfg = run_config(folder, name=name, max_iters=6, interval=2, keep=1, val_interval=2)
    cfg.default_hooks.checkpoint.save_best = 'mIoU'
    train(cfg, resume)


def count_touches(do: Callable[[], Any], note: Path, die_before: int | None = None) -> None:
    """Count how often the disk is touched; be killed before the touch of that number."""
    done = 0

    def touched(original: Callable, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        if done == die_before:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return original(*args, **kwargs)

    for name in TOUCHES:
        setattr(os, name, partial(touched, getattr(os, name)))
    do()
    note.write_text(str(done))


def left(folder: Path) -> dict[str, Any]:
    """Return what a run left, but for its logs and the times in them."""
    found = {}
    for file in sorted(folder.rglob('*')):
        name = str(file.relative_to(folder))
        if file.is_file() and file.suffix == '.pth':
            found[name] = plain(load_checkpoint_file(file))
        elif file.is_file() and not name[:8].isdigit() and file.suffix not in ('.py', '.json'):
            found[name] = file.read_text()
    return found


def plain(value: Any) -> Any:
    """Return a checkpoint's content as what == compares, without times and the config's text, which
    holds the folder.

    Nor is the hub's ``iter`` compared, which mmengine counts from where a run was started;
    ``meta.iter`` is.
    """
    if isinstance(value, torch.Tensor):
        return (
            str(value.dtype),
            tuple(value.shape),
            value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else value.item(),
        )
    if isinstance(value, HistoryBuffer):
        return plain(value._log_history), plain(value._count_history)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, dict):
        left_out = (
            *TIMES,
            'cfg',
            'experiment_name',
            'mmkd_run_record',
            'mmkd_students',  # their configs, with the paths of the data
            *['iter'] * ('mmkd_validated' in value),
        )
        return {
            key: plain(item)
            for key, item in value.items()
            if str(key).rpartition('/')[2] not in left_out
        }
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def differences(one: Any, other: Any, where: str = '') -> list[str]:
    """Name the places where two such contents differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        alone = [f'{where}/{key} is there once' for key in one.keys() ^ other.keys()]
        return alone + [
            found
            for key in one.keys() & other.keys()
            for found in differences(one[key], other[key], f'{where}/{key}')
        ]
    return [] if one == other else [where]


def kill_everywhere(
    folder: Path, every: int = 1, at_random: int = 30, share: slice = slice(None), seed: int = 0
) -> Iterator[tuple[str, list[str]]]:
    """Yield each fault that was injected, and what was lost by it.

    Args:
        folder: Where the runs and their images lie.
        every: Kill before every so many-th touch of the disk.
        at_random: Kill so often at a random time of the run.
        share: Which of all these faults; several tests divide them among processes.
        seed: Of these times.
    """
    start(folder, 'first')  # what a first run imports and caches, every fork has then
    note = folder / 'touches'
    begin = time.monotonic()
    assert forked(lambda: count_touches(partial(start, folder, 'whole'), note)) == 0
    length, touches = time.monotonic() - begin, int(note.read_text())
    whole = left(folder / 'whole')
    assert LOCK not in whole
    assert len([name for name in whole if name.startswith('best_')]) == 1
    moments = random.Random(seed)
    faults: list[tuple[str, dict]] = [
        (f'kill before touch {n}', dict(die_before=n)) for n in range(0, touches, every)
    ]
    faults += [
        (f'kill at a random time {n}', dict(kill_after=moments.uniform(0, length)))
        for n in range(at_random)
    ]
    for number, (fault, how) in enumerate(faults[share]):
        name = f'parts_{number}'
        run = partial(count_touches, partial(start, folder, name), note, how.get('die_before'))
        code = forked(run, how.get('kill_after'))
        lost = [] if code in (-signal.SIGKILL, 0) else [f'the run ended by itself, {code}']
        if code:
            code = forked(partial(start, folder, name, resume=True))
            lost += [] if code == 0 else [f'the resumed run ended with {code}']
        yield fault, lost + differences(whole, left(folder / name))
