"""Stored teachers: what a teacher said of every batch, read in place of running it."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd.distiller.members.class_names import class_names
from mmkd.distiller.members.member import Member, check_member_key
from mmkd.distiller.members.plain_config import plain_model_cfg
from mmkd.distiller.members.run import Run
from mmkd.distiller.members.teacher import Teacher
from mmkd.distiller.taps.points import is_point, read_point
from mmkd.distiller.taps.tap_path import TapPath
from mmkd.noise.base import Host
from mmkd.structures.batch import Batch
from mmkd.tasks import Described
from mmkd.utils.checks import check_dict, check_keys, nearest
from mmkd.utils.seeds import image_name
from mmkd.utils.stored.facts import plain, tell_differences
from mmkd.utils.stored.manifest import Manifest, StoredTap, StoredTeacher, read_manifest
from mmkd.utils.stored.precision import Precision, moved, unpack
from mmkd.utils.stored.shards import (
    PROBE,
    Entry,
    Reader,
    look_at,
    read_tensors,
    shards_of,
    stored_until,
)
from mmkd.version import __version__

KEYS = ('kind', 'path', 'taps', 'classes', 'verify')
# how far the mean of what is stored may lie from the live teacher's, relative to its own
TOLERANCE = dict(fp32=1e-3, fp16=3e-3, bf16=2e-2)
LOOK_EVERY = 20  # iterations, on a GPU
_LOOK = 1e-3  # of numbers of the inputs, which another device may round differently
_AGAIN = 'or mmkd store CONFIG --out ANOTHER_FOLDER, and read that'


@dataclass
class StoredMember(Member):
    """A teacher whose outputs were stored.

    Args:
        path: The folder of ``mmkd store``.
        manifest: What it says of itself.
        verify: The live teacher, where it is to be compared on the first batch.
    """

    path: str = ''
    manifest: Manifest = field(default_factory=lambda: Manifest({}, {}, 'bf16'))
    verify: Member | None = None

    @property
    def stored(self) -> StoredTeacher:
        """What is stored of this teacher."""
        return self.manifest.teacher(self.name, self.path)

    @property
    def stored_as(self) -> str:
        """The name that it was stored under."""
        stored = self.stored
        return next(name for name, one in self.manifest.teachers.items() if one is stored)

    @classmethod
    def read_stored(cls, name: str, role: str, value: Mapping[str, Any]) -> 'StoredMember':
        """Read ``dict(kind='stored', path=DIR)``.

        Raises:
            FileNotFoundError: The folder holds no stored outputs.
            KeyError: It holds no teacher of this name.
            TypeError: Unknown keys, with the nearest match; a student; no path.
            ValueError: Another kind; a live teacher to verify by that is another one.
        """
        where = f'{role} {name!r}'
        if role != 'teacher':
            check_member_key(name, role, 'kind')
        check_keys(value, KEYS, f'{where} of kind {value["kind"]!r}')
        path = value.get('path')
        if not isinstance(path, str | Path) or not str(path).strip():
            raise TypeError(
                f'path of {where} must be the folder that mmkd store wrote, got {path!r}. Mend: '
                "dict(kind='stored', path='stored/…')"
            )
        check_dict(f'taps of {where}', value.get('taps'), "taps=dict(logits='auto')")
        manifest = read_manifest(path)
        stored = manifest.teacher(name, path)
        verify = value.get('verify')
        live = None if verify is None else Member.parse(name, role, verify)
        given = value.get('classes') or (live.classes if live else None)
        member = cls(
            name,
            role,
            stored.model,
            scope=stored.scope,
            taps=dict(value.get('taps') or {}),
            path=str(path),
            manifest=manifest,
            verify=live,
            classes=class_names(given or None, None, stored.scope, where),
        )
        member.check_same_teacher()
        return member

    def check_same_teacher(self) -> None:
        """Refuse a live teacher of another config than the stored one.

        Raises:
            ValueError: Names what differs.
        """
        if self.verify is None:
            return
        there = {key: one for key, one in self.stored.facts.items() if key != 'weights'}
        self._refuse(tell_differences(there, facts_of_member(self.verify)), 'verify')

    def find(self, tap: str, text: str) -> str:
        """Return under which name a tap was stored.

        Args:
            tap: Its name.
            text: The path or point that the config writes.

        Raises:
            KeyError: Nothing was stored of it; tells what was.
        """
        taps = self.stored.taps
        wanted = self._meaning(tap, text)
        for name in sorted(taps, key=lambda name: name != tap):  # that of the same name first
            if wanted in (self._meaning(name, taps[name].asked), taps[name].path):
                return name
        listed = ', '.join(f'{name}={one.path!r}' for name, one in taps.items())
        near = nearest(text, [one.path for one in taps.values()], otherwise='.')
        raise KeyError(
            f'tap {tap!r} of {self.where} ({text!r}) is not among what {self.path} holds '
            f'({listed}){near} Mend: a tap that is there; {_AGAIN}'
        )

    def _meaning(self, tap: str, text: str) -> Any:
        return read_point(tap, text, self.where) if is_point(text) else text

    def check_run(self, here: Mapping[str, Any]) -> None:
        """Refuse a run in which the teacher would see other images than when it was stored.

        Args:
            here: Of :func:`mmkd.utils.stored.facts.facts_of_run`.

        Raises:
            ValueError: Names what differs.
        """
        self._refuse(tell_differences(self.manifest.run, plain(here)), 'this run')

    def _refuse(self, text: str, what: str) -> None:
        if text:
            raise ValueError(
                f'{self.where}: {self.path} was stored for something else than {what}: {text}. '
                f'Mend: what it was stored for, {_AGAIN}'
            )

    def load(self, model: Any) -> None:
        """Load nothing: there is no network."""


def facts_of_member(member: Member) -> dict[str, Any]:
    """Return what decides what a teacher says, its weights aside.

    Raises:
        TypeError: It was given as a built model, which nothing describes.
    """
    ours = {key: one for key, one in member.options.items() if key != 'allow_untrained'}
    return dict(model=plain(plain_model_cfg(member).to_dict()), options=plain(ours))


class StoredTaps:
    """The taps of a stored teacher.

    Args:
        keys: Tap -> the name that it was stored under.
        stored: What was stored.
        where: How errors call the teacher.
    """

    model = None  # nothing to hook

    def __init__(
        self, keys: Mapping[str, str], stored: Mapping[str, StoredTap], where: str
    ) -> None:
        self.keys, self.stored, self.where = dict(keys), stored, where
        self.paths = {tap: TapPath.parse(stored[key].path) for tap, key in keys.items()}

    def only(self, names: Iterable[str]) -> 'StoredTaps':
        """Return some of them."""
        return StoredTaps({name: self.keys[name] for name in names}, self.stored, self.where)


class Stored(Run):
    """A teacher that is read and not run.

    Which iteration it is, a hook says (``mmkd.StoredTeacherHook``, which ``mmkd train`` adds).

    Args:
        member: Its description.
        taps: Tap that objectives read -> the name that it was stored under.
        source: The data preprocessor that makes the batches.

    Raises:
        ValueError: The live teacher that it is to be compared with has other weights.
    """

    live = False
    member: StoredMember
    taps: Any

    def __init__(self, member: StoredMember, taps: Mapping[str, str], source: nn.Module) -> None:
        stored = member.stored
        model: Any = Described(stored.model, stored.scope)
        super().__init__(member, model, StoredTaps(taps, stored.taps, member.where))  # type: ignore[arg-type]
        self.stored = stored
        self.iteration: int | None = None
        self._reader: Reader | None = None
        self._stand_in = False
        self._checked = False
        self._teacher: Teacher | None = None
        if member.verify is not None:
            paths = {key: stored.taps[key].path for key in taps.values()}
            self._teacher = Teacher(member.verify, paths, source)
            if self._teacher.digest().hex() != stored.weights:
                raise ValueError(
                    f'{self.where}: {member.path} was stored of other weights than those of '
                    f'verify (SHA-256 {stored.weights[:8]}… there and '
                    f'{self._teacher.digest().hex()[:8]}… here). Mend: the checkpoint that it was '
                    f'stored of, {_AGAIN}'
                )

    def __deepcopy__(self, memo: dict) -> 'Stored':
        """Return itself: a copy of the Distiller (EMA) reads the same files."""
        return self

    def digest(self) -> bytes:
        """Return the SHA-256 of the weights of the teacher that was stored."""
        return bytes.fromhex(self.stored.weights)

    def host(self, preprocessor: nn.Module) -> Host:
        """Return what noises ask of it."""
        paths = list(self.taps.paths)
        return Host(self.role, self.where, self.model, paths, preprocessor, live=False)

    # ------------------------------------------------------------------ of a run

    def begin(self, rank: int, iterations: int, here: Mapping[str, Any]) -> None:
        """Look at all that decides, before the first step.

        Args:
            rank: Of this process.
            iterations: How many the run will have seen at its end.
            here: What decides which images it sees.

        Raises:
            ValueError: The run sees other images, or more of them, than were stored.
        """
        self.member.check_run(here)
        shards = shards_of(self.member.path, rank)
        if stored_until(shards) < iterations:
            raise ValueError(
                f'{self.where}: {self.member.path} holds {stored_until(shards)} iterations, this '
                f'run has {iterations}. Mend: mmkd store with the same arguments goes on to '
                f'{iterations}; or train_cfg.max_iters={stored_until(shards)}'
            )
        self._reader = self._read(rank)
        self._checked = False
        made = self.member.manifest.made
        if made.get('torch') != torch.__version__ or made.get('mmkd') != __version__:
            print_log(
                f'{self.where}: {self.member.path} was stored by torch {made.get("torch")} and '
                f'mmkd {made.get("mmkd")}, this is {torch.__version__} and {__version__}: images '
                'may be cut and coloured otherwise than then',
                logger='current',
                level=logging.WARNING,
            )

    def end(self) -> None:
        """Close what is open."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self.iteration = None, None

    def _read(self, rank: int) -> Reader:
        shards, keys = shards_of(self.member.path, rank), sorted({*self.taps.keys.values()})
        pinned = torch.cuda.is_available()
        return Reader(shards, self.member.stored_as, keys, pinned)

    def run(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what was said of this batch, tap name -> tensor, and no losses."""
        if self._stand_in:
            return self._any(batch), {}
        if self.iteration is None or self._reader is None:
            raise RuntimeError(
                f'{self.where} is stored and nothing tells which iteration this is. Mend: mmkd '
                "train; or custom_hooks=[…, dict(type='mmkd.StoredTeacherHook')] of a Runner of "
                'your own'
            )
        entry = self._reader.read(self.iteration)
        first = not self._checked
        self._check(batch, entry, first or self._looks(batch.inputs.device))
        self._checked = True
        seen = self._unpack(entry.taps[self._reader.teacher], batch.inputs.device)
        if first and self._teacher is not None:
            self._compare(batch, seen)
        return seen, {}

    def _looks(self, device: torch.device) -> bool:
        """Return whether numbers are looked at now: on a GPU that waits for it, so now and then."""
        assert self._reader is not None
        assert self.iteration is not None
        every = 1 if device.type == 'cpu' else LOOK_EVERY
        return self.iteration % every == 0 or self._reader.begins_shard(self.iteration)

    def _unpack(self, taps: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        keys = self.taps.keys.items()
        return {tap: self._unpack_one(taps[key], key, device) for tap, key in keys}

    def _unpack_one(self, kept: Any, key: str, device: torch.device) -> Any:
        about = self.stored.taps[key]
        there = moved(kept, lambda one: one.to(device, non_blocking=True))
        classes = about.shape[1] if len(about.shape) > 1 else 0
        return unpack(there, getattr(torch, about.dtype), classes)

    def _check(self, batch: Batch, entry: Entry, whole: bool) -> None:
        """Refuse a batch of other images; ``whole`` compares their numbers too."""
        names = names_of(batch)
        if names != entry.names:
            self._refuse_batch(f'it is of {_some(names)}, stored was {_some(entry.names)}')
        if not whole or entry.look is None:
            return
        here, there = look_at(batch.inputs).cpu(), entry.look
        if here.shape != there.shape:
            self._refuse_batch(f'it has {len(here)} images, stored were {len(there)}')
        if not torch.allclose(here, there, rtol=_LOOK, atol=_LOOK):
            self._refuse_batch('its images have other numbers')

    def _refuse_batch(self, text: str) -> NoReturn:
        raise ValueError(
            f'{self.where}: the batch of iteration {self.iteration} is not the one that '
            f'{self.member.path} was stored of: {text}. Mend: the data set, files and libraries of '
            f'then, {_AGAIN}'
        )

    def _compare(self, batch: Batch, seen: Mapping[str, Any]) -> None:
        """Compare with the live teacher, and let it go."""
        teacher, self._teacher = self._teacher, None
        assert teacher is not None
        teacher.to(batch.inputs.device)
        live = teacher.watch(batch, compiled=False)
        manifest = self.member.manifest
        precision = Precision(manifest.dtype, manifest.top_k)
        told = []
        for tap, key in self.taps.keys.items():
            packed = precision.pack(live[key], self.stored.taps[key].logits)
            error = _distance(seen[tap], self._unpack_one(packed, key, batch.inputs.device))
            told.append(f'{tap} {error:.2g}')
            if not error <= TOLERANCE[manifest.dtype]:
                raise ValueError(
                    f'{self.where}: tap {tap!r} of {self.member.path} is not what the live teacher '
                    f'says of the batch of iteration {self.iteration}: they differ by '
                    f'{100 * error:.3g} % of its mean size, allowed is '
                    f'{100 * TOLERANCE[manifest.dtype]:g} %. Mend: libraries and device of then; '
                    f'{_AGAIN}'
                )
        print_log(
            f'mmkd: {self.where}: as the live teacher on the first batch ({", ".join(told)} of its '
            'mean size)',
            logger='current',
        )

    # ------------------------------------------------------------------ outside of one

    def stand_in(self) -> str:
        """Answer with what was stored first, whatever the batch, to measure values and costs."""
        self._stand_in = True
        return (
            f'{self.where} is stored: what it said of the first batch stands in for what it says '
            'of this one'
        )

    def _any(self, batch: Batch) -> dict[str, Any]:
        reader = self._reader = self._reader or self._read(0)
        if not reader.shards:
            raise ValueError(
                f'{self.where}: {self.member.path} holds no iteration yet. Mend: mmkd store with '
                'the same arguments goes on'
            )
        seen = self._unpack(reader.read(0).taps[reader.teacher], batch.inputs.device)
        return {tap: _of_images(value, len(batch.inputs)) for tap, value in seen.items()}

    def probe(self, batch: Batch) -> dict[str, Any]:
        """Return what the teacher said of the probe's generated image."""
        kept = read_tensors(Path(self.member.path) / PROBE)
        size = tuple(kept['size'])
        if tuple(batch.inputs.shape) != size:
            raise ValueError(
                f'{self.where}: {self.member.path} was stored for inputs of {size[1:]}, this run '
                f'has {tuple(batch.inputs.shape[1:])}. Mend: the data_preprocessor of then (and no '
                f'--size), {_AGAIN}'
            )
        taps = kept['taps'][self.member.stored_as]
        seen = {
            tap: moved(taps[key], lambda one: one.clone().to(batch.inputs.device))
            for tap, key in self.taps.keys.items()
        }
        return self.noises.on_taps(seen)

    def watch(self, batch: Batch, compiled: bool = True) -> dict[str, Any]:
        """Refuse: there is no network that could look at other images."""
        self._refuse_images('run on other images than those of the training')

    def loss_with(self, tap: str, batch: Batch, change: Any) -> Tensor:
        """Refuse: there is no network that could compute a loss."""
        self._refuse_images('asked for its own loss')

    def _refuse_images(self, what: str) -> NoReturn:
        raise ValueError(
            f'{self.where} is stored and cannot be {what}, as this method does before training. '
            'Mend: fit under the live teacher, and give the file; or train under the live teacher'
        )


def names_of(batch: Batch) -> list[str] | None:
    """Return by which names the images of a batch are known; None where one has no name."""
    samples = batch.data_samples or []
    try:
        return [image_name(sample.metainfo, 'it') for sample in samples] or None
    except (ValueError, AttributeError):
        return None


def _some(names: list[str] | None) -> str:
    if names is None:
        return 'images without names'
    more = f' and {len(names) - 2} more' if len(names) > 2 else ''
    return f'{", ".join(names[:2])}{more}'


def _of_images(value: Any, number: int) -> Any:
    """Return as many images as there are, the stored ones over and over."""
    if isinstance(value, list):
        return [_of_images(one, number) for one in value]
    if value.dim() == 0:
        return value
    return value[torch.arange(number, device=value.device) % len(value)]


def _distance(one: Any, other: Any) -> float:
    """Return the mean difference of two tensors relative to the mean size of the second."""
    if isinstance(one, list):
        return max(_distance(a, b) for a, b in zip(one, other, strict=True))
    if one.shape != other.shape:
        return float('inf')
    one, other = one.double(), other.double()
    error, size = (one - other).abs().mean(), other.abs().mean()
    return (error / size.clamp(min=1e-12)).item() if one.numel() else 0.0
