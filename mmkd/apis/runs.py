"""The note that a finished run leaves in its folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkd.utils.atomic import write_atomically

NOTE = 'done.json'


def digest_of(settings: Mapping[str, Any]) -> str:
    """Return a digest of settings: another one says that a note is of another run."""
    return hashlib.sha256(repr(Config(dict(settings)).to_dict()).encode()).hexdigest()


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
