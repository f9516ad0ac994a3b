"""The note that a finished run leaves in its folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkd.utils.atomic import write_atomically

NOTE = 'done.json'


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
