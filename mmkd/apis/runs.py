"""What a run notes in its folder: by which settings it began, and that it is finished."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.utils import apply_to

from mmkd.utils.atomic import write_atomically
from mmkd.utils.work_dir import BEGUN

NOTE = 'done.json'


def digest_of(settings: Mapping[str, Any]) -> str:
    """Return a digest of settings: another one says that a note is of another run."""
    # the order of a set differs from process to process
    plain = apply_to(
        Config(dict(settings)).to_dict(),
        lambda value: isinstance(value, set | frozenset),
        partial(sorted, key=repr),
    )
    return hashlib.sha256(repr(plain).encode()).hexdigest()


@lru_cache
def digest_of_file(path: str) -> str:
    """Return what identifies weights: the content of a file, the address of anything else."""
    if not Path(path).is_file():
        return path
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


class NoteBegin(Hook):
    """Note by which settings a run begins, once it has its folder and before its first iteration.

    Args:
        settings: Digest of them.
    """

    priority = 'LOWEST'  # behind the hook that refuses a folder, or takes it

    def __init__(self, settings: str) -> None:
        self.settings = settings

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Write the note; that of a run which finished there goes."""
        folder = Path(runner.work_dir)
        (folder / NOTE).unlink(missing_ok=True)
        write_atomically(json.dumps(dict(settings=self.settings)).encode(), folder / BEGUN)


def begun_by(folder: str | Path) -> str | None:
    """Return the digest of the settings by which the run in a folder began; None without a note."""
    try:
        return str(json.loads((Path(folder) / BEGUN).read_text())['settings'])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_note(folder: str | Path, note: dict[str, Any]) -> None:
    """Note in a run's folder that it is finished, and what it found."""
    write_atomically(json.dumps(note).encode(), Path(folder) / NOTE)


def read_note(folder: str | Path, keys: Sequence[str], run: str = 'run') -> dict[str, Any] | None:
    """Return what a finished run noted; None where there is no note.

    Args:
        folder: Of the run.
        keys: What every note says.
        run: How errors call it.

    Raises:
        SystemExit: It cannot be read, or is another note.
    """
    file = Path(folder) / NOTE
    if not file.is_file():
        return None
    try:
        note = json.loads(file.read_text())
        if not set(keys) <= set(note):
            raise ValueError(f'it is no note of a {run}')
    except (ValueError, TypeError) as error:
        raise SystemExit(
            f'{file} cannot be read ({error}). Mend: remove it, and the {run} is trained again or '
            'goes on'
        ) from error
    return note
