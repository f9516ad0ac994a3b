"""Runs of several seeds in one process, and the note that a finished one leaves in its folder."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkd.utils.atomic import write_atomically

NOTE = 'done.json'


def seeds_flag(parser: argparse.ArgumentParser, default: Sequence[int], about: str) -> None:
    """Add ``--seeds``; :func:`check_seeds` looks at what was given.

    Args:
        parser: Gets the flag.
        default: Seeds where none are given.
        about: Its help.
    """
    parser.add_argument('--seeds', type=int, nargs='+', default=list(default), help=about)


def check_seeds(parser: argparse.ArgumentParser, seeds: Sequence[int]) -> None:
    """Refuse a seed that is given twice or is negative.

    Raises:
        SystemExit: As argparse ends.
    """
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        parser.error(f'--seeds must be different whole numbers of at least 0, got {seeds}')


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
