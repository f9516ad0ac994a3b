"""The manifest of stored outputs: whose they are, of which run, and how they are kept."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmkd.utils.atomic import write_atomically
from mmkd.utils.checks import nearest, nearest_file, printable

FILE = 'manifest.json'
FORMAT = 1


@dataclass(frozen=True)
class StoredTap:
    """One tap of a teacher.

    Args:
        asked: As the config that was stored wrote it: a path, or a point.
        path: What it is in the teacher.
        kept: How it is kept, in words.
        dtype: As the teacher gives it.
        shape: Of one batch; of the first one of a list.
        logits: Whether objectives take it for class logits.
    """

    asked: str
    path: str
    kept: str
    dtype: str
    shape: list[int]
    logits: bool


@dataclass(frozen=True)
class StoredTeacher:
    """One teacher.

    Args:
        model: Its config, without downloads.
        scope: The registry scope of its types.
        options: Its other options: precision, fuse_bn, ….
        weights: SHA-256 of its weights.
        taps: What was stored of it.
    """

    model: dict[str, Any]
    scope: str
    options: dict[str, Any]
    weights: str
    taps: dict[str, StoredTap]

    @classmethod
    def read(cls, found: dict[str, Any]) -> 'StoredTeacher':
        """Read one of a manifest."""
        taps = {str(tap): StoredTap(**kept) for tap, kept in found['taps'].items()}
        return cls(**{**found, 'taps': taps})

    @property
    def paths(self) -> dict[str, str]:
        """Tap -> path in the teacher."""
        return {tap: one.path for tap, one in self.taps.items()}

    @property
    def facts(self) -> dict[str, Any]:
        """What decides its outputs, taps aside."""
        return dict(model=self.model, options=self.options, weights=self.weights)


@dataclass(frozen=True)
class Manifest:
    """What a folder of stored outputs says of itself.

    Args:
        run: What decides which images were seen, see :func:`mmkd.utils.stored.facts.facts_of_run`.
        teachers: Name -> teacher.
        dtype: Of what is kept.
        top_k: How many class logits are kept; None: all.
        bytes: Of one iteration of one process, about.
        made: How it came about, which decides nothing.
    """

    run: dict[str, Any]
    teachers: dict[str, StoredTeacher]
    dtype: str
    top_k: int | None = None
    bytes: int = 0
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """All that must agree for the same folder to go on."""
        teachers = {
            name: {**teacher.facts, 'taps': teacher.paths}
            for name, teacher in self.teachers.items()
        }
        return dict(**self.run, dtype=self.dtype, top_k=self.top_k, teachers=teachers)

    def teacher(self, name: str, folder: str | Path) -> StoredTeacher:
        """Return the teacher of this name, or the only one.

        Args:
            name: Of the member.
            folder: For the error.

        Raises:
            KeyError: There are several, and none of this name.
        """
        if name not in self.teachers and len(self.teachers) > 1:
            raise KeyError(
                f'{folder} holds no teacher {name!r}{nearest(name, self.teachers)} (teachers: '
                f'{", ".join(self.teachers)}). Mend: the name that it was stored under'
            )
        return self.teachers.get(name) or next(iter(self.teachers.values()))

    def write(self, folder: str | Path) -> None:
        """Write it into a folder, as a whole or not at all."""
        text = json.dumps(dict(format=FORMAT, **asdict(self)), indent=1) + '\n'
        write_atomically(text.encode(), Path(folder) / FILE)


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of a folder of stored outputs.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read, or is of another version of mmkd.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        near = '' if Path(folder).is_dir() else nearest_file(Path(folder))
        raise FileNotFoundError(
            f'{folder} holds no stored outputs: there is no {FILE}{near}. Mend: mmkd store CONFIG '
            f'--out {folder}'
        )
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
        if not isinstance(found, dict):
            raise ValueError('it is no dictionary')
        version = found.pop('format')
        if version != FORMAT:
            raise ValueError(f'it is of format {printable(version)}, this mmkd reads {FORMAT}')
        teachers = found['teachers'].items()
        found['teachers'] = {str(name): StoredTeacher.read(one) for name, one in teachers}
        manifest = Manifest(**found)
        if not manifest.teachers or not isinstance(manifest.run, dict):
            raise ValueError('it names no teacher')
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f'{file} cannot be read ({printable(error)}). Mend: store into another folder, mmkd '
            'store CONFIG --out …'
        ) from error
    return manifest
