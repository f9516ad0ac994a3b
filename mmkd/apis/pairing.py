"""Two configs and a checkpoint as a config that a person would have written."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from mmkd.apis.launch import merge_options
from mmkd.apis.length import scaled
from mmkd.apis.prepare import is_distiller
from mmkd.engine.hooks.exact_resume import ExactResumeHook, resumes_exactly
from mmkd.methods.expand import expand, find_method, known_methods
from mmkd.methods.plan import ITSELF, ONE, PEERS, SEVERAL, needs_of
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checks import check_count, nearest_file
from mmkd.utils.config_file import read_config, readable_text
from mmkd.utils.config_text import assignments
from mmkd.utils.kinds import bare_name
from mmkd.utils.signed import is_unedited, sign

FILE, PLAIN, RUN = 'distill.py', 'student_plain.py', 'run'
RUNTIME = 'mmkd::_base_/runtime.py'
NOT_WRITTEN = 'LengthCheckHook'  # it is for those who call no command
SIGNED = '# mmkd distill: '  # begins the last line, before the digest of what stands above it


@dataclass(frozen=True)
class Pairing:
    """What is to be distilled, as the command line says it.

    Args:
        student: The student's config, a path or ``pkg::path``.
        teacher: The teacher's config; of peers the other one's; None: the student teaches itself.
        checkpoints: The teacher's weights; several are several teachers of one config.
        methods: Names of methods, or ``dict(type=name, option=…)``.
        name: Of the folder; None: ``<student>_<method>``.
        work_dir: The folder; None: ``work_dirs/<name>``.
        iters: Length of the run; None: the student's.
        seed: Of the run; None: the student's.
    """

    student: str
    teacher: str | None = None
    checkpoints: tuple[str, ...] = ()
    methods: tuple[str | dict[str, Any], ...] = ('kd',)
    name: str | None = None
    work_dir: str | None = None
    iters: int | None = None
    seed: int | None = None

    @property
    def names(self) -> list[str]:
        """The methods without their options."""
        return [one if isinstance(one, str) else one['type'] for one in self.methods]

    @property
    def folder(self) -> Path:
        """Where everything is written.

        >>> Pairing('mmseg::pspnet/small.py', 'big.py', methods=('kd', 'skd-pa')).folder.as_posix()
        'work_dirs/small_kd+skd-pa'
        """
        student = Path(self.student.split('::')[-1]).stem
        name = self.name or f'{student}_{"+".join(self.names)}'
        return Path(self.work_dir) if self.work_dir else Path('work_dirs') / name

    @property
    def peers(self) -> bool:
        """Whether a method is of peers, without a teacher."""
        return any(needs_of(find_method(name)).teachers == PEERS for name in self.names)

    @property
    def alone(self) -> bool:
        """Whether every method is one by which a student teaches itself."""
        return all(needs_of(find_method(name)).teachers == ITSELF for name in self.names)


def read_method(text: str, flag: str = '--method') -> str | dict[str, Any]:
    """Return a method as a config says it, of ``NAME`` or ``NAME:option=value,…``.

    Args:
        text: What was given.
        flag: Where, as errors call it.

    Raises:
        ValueError: Something else stands behind the colon.

    >>> read_method('kd'), read_method('kd:weight=3,tau=0.5'), read_method('id:layers=[0,2]')
    ('kd', {'type': 'kd', 'weight': 3, 'tau': 0.5}, {'type': 'id', 'layers': [0, 2]})
    """
    name, colon, rest = text.partition(':')
    if not colon:
        return name
    options: dict[str, Any] = {}
    for part in re.split(r',(?=\s*\w+\s*=)', rest):
        key, _, value = map(str.strip, part.partition('='))
        balanced = all(value.count(a) == value.count(b) for a, b in ('()', '[]'))
        if not key.isidentifier() or not value or not balanced or key in options or key == 'type':
            raise ValueError(
                f'{flag} takes NAME or NAME:option=value,…, got {text!r}. Mend: {flag} '
                f'{name}:weight=3,tau=4; mmkd methods {name} tells the options'
            )
        options[key] = DictAction._parse_iterable(value)
    return dict(type=name, **options)


# ---------------------------------------------------------------------- the file


def write_config(
    pairing: Pairing, overwrite: bool = False, options: Mapping[str, Any] | None = None
) -> Path:
    """Write ``distill.py`` into the pairing's folder; return its path.

    What this function wrote and nobody edited is written over, unless a run of it lies there.

    Args:
        pairing: What is to be distilled.
        overwrite: Whether to write it over another one.
        options: Settings of this run alone, ``key.key`` -> value: the method is tried with them.

    Raises:
        FileExistsError: Another one is there: a person edited it, or a run was made by it.
        KeyError: There is no such method.
        TypeError: An option that it does not have.
        ValueError: A pair that the method is not made for.
    """
    student = read_config(pairing.student)
    settings = _settings(pairing, student)
    _try_method(settings, student, options or {})
    text, path = _as_file(pairing, settings), pairing.folder / FILE
    if not overwrite:
        _check_free(path, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_new_style(student):
        about = f'# {pairing.student} in the old style, which {FILE} inherits; written anew by it'
        plain = f'{about}\n{readable_text(student)}'
        write_atomically(plain.encode(), path.parent / PLAIN)
    write_atomically(text.encode(), path)
    return path


def config_text(pairing: Pairing) -> str:
    """Return the config of a pairing, as a person would have written it.

    Raises:
        FileNotFoundError: A config or a checkpoint is not there.
        KeyError: There is no such method.
        ValueError: The student's config is a Distiller's; checkpoints of peers, or none of a
            teacher, or too few; a length that the config's loop does not have.
    """
    return _as_file(pairing, _settings(pairing, read_config(pairing.student)))


def _as_file(pairing: Pairing, settings: dict[str, Any]) -> str:
    about = 'data, schedule and runtime are those of the student alone, and hooks of mmkd'
    above = (
        f'# {" + ".join(pairing.names)}: {about}\n'
        '# the path of _base_ starts at this file, all others where the command runs\n'
        f'{assignments(settings)}\n'
    )
    return sign(above, SIGNED)


def _check_free(path: Path, text: str) -> None:
    there = path.read_text(encoding='utf-8') if path.exists() else text
    if there == text:
        return
    others = '--name or --work-dir for another folder'
    if not is_unedited(there, SIGNED):
        raise FileExistsError(
            f'{path} is there and says something else than this command would write; it has been '
            f'edited. Mend: mmkd train {path} goes on by it; {others}; --overwrite writes it anew'
        )
    if any((path.parent / RUN).glob('*.pth')):
        raise FileExistsError(
            f'{path.parent / RUN} holds a run of another config than this command would write to '
            f'{path}. Mend: mmkd train {path} --resume goes on with it; {others}; --overwrite '
            'begins anew'
        )


def _try_method(settings: Mapping[str, Any], student: Config, options: Mapping[str, Any]) -> None:
    """Expand the method before anything is written."""
    run = Config(student.to_dict())
    run.model = {key: one for key, one in settings['model'].items() if key != '_delete_'}
    run.merge_from_dict(dict(train_cfg=settings.get('train_cfg') or {}))
    merge_options(run, options)
    expand(run.model, run)


# ---------------------------------------------------------------------- the settings


def _settings(pairing: Pairing, student: Config) -> dict[str, Any]:
    for name in pairing.names:
        find_method(name)
    teacher = _teacher(pairing)
    if is_distiller(student):
        raise ValueError(
            f'the config {pairing.student!r} is that of a Distiller, not of a student. Mend: the '
            "config that its student is trained by alone; mmkd train trains a Distiller's"
        )
    members = _members(pairing, student, teacher)
    method: Any = list(pairing.methods) if len(pairing.methods) > 1 else pairing.methods[0]
    settings: dict[str, Any] = dict(
        _base_=_base(pairing, student),
        work_dir=(pairing.folder / RUN).as_posix(),
        model=dict(_delete_=True, type='mmkd.Distiller', **members, method=method),
    )
    if student.get('load_from'):
        settings['load_from'] = None
    settings |= _watch(student)
    if pairing.seed is not None:
        settings['randomness'] = dict(seed=pairing.seed)
    if pairing.iters is not None:
        settings |= _length(student, pairing)
    return settings


def _watch(student: Config) -> dict[str, Any]:
    """Return what mmkd's own runtime brings and a student's does not: safe and exact runs."""
    hooks = [_plain(hook) for hook in student.get('custom_hooks') or []]
    there = {bare_name(hook.get('type')) for hook in hooks if isinstance(hook, dict)}
    exactly = resumes_exactly(student)
    left_out = {NOT_WRITTEN, *there, *([] if exactly else [ExactResumeHook.__name__])}
    missing = [
        dict(type=hook.type)
        for hook in read_config(RUNTIME).custom_hooks
        if bare_name(hook.type) not in left_out
    ]
    settings: dict[str, Any] = dict(custom_hooks=[*hooks, *missing]) if missing else {}
    saves = (student.get('default_hooks') or {}).get('checkpoint', dict(type='CheckpointHook'))
    if saves and bare_name(saves.get('type')) == 'CheckpointHook':
        settings['default_hooks'] = dict(checkpoint=dict(type='mmkd.SafeCheckpointHook'))
    if exactly and (student.get('randomness') or {}).get('seed') is None:
        settings['randomness'] = dict(seed=0)
    return settings


def _teacher(pairing: Pairing) -> Config | None:
    """Return the config of the teacher, or of the other peer; None where there is none."""
    if pairing.teacher is not None:
        return read_config(pairing.teacher)
    if not pairing.alone:
        raise ValueError(
            f'{" + ".join(pairing.names)} learns of another model than the student, and no config '
            'of one is given. Mend: mmkd distill STUDENT.py TEACHER.py TEACHER.pth; alone: '
            '--method ema'
        )
    return None


def _base(pairing: Pairing, student: Config) -> str:
    """Return the student's config as the written file names it."""
    if _is_new_style(student):
        return PLAIN  # mmengine lets no file of the old style inherit it
    if '::' in pairing.student:
        return pairing.student
    return Path(os.path.relpath(pairing.student, pairing.folder)).as_posix()


def _is_new_style(config: Config) -> bool:
    return Config._is_lazy_import(str(config.filename))


def _members(pairing: Pairing, student: Config, teacher: Config | None) -> dict[str, Any]:
    own = _trained(pairing.student, student)
    if pairing.alone and pairing.teacher is not None:
        raise ValueError(
            f'{" + ".join(pairing.names)} has no teacher: the student teaches itself, got '
            f'{pairing.teacher!r}. Mend: leave it out; beside a teacher: --method kd --method '
            f'{pairing.names[0]}'
        )
    if teacher is None or pairing.teacher is None:
        return dict(student=own)
    if pairing.peers:
        if pairing.checkpoints:
            raise ValueError(
                f'{" + ".join(pairing.names)} has no teacher: peers begin alike, got the '
                f'checkpoint {pairing.checkpoints[0]!r}{_if_method(pairing.checkpoints[0])}. Mend: '
                'leave it out'
            )
        return dict(students=dict(peer0=own, peer1=_trained(pairing.teacher, teacher)))
    if not pairing.checkpoints:
        raise ValueError(
            f'{" + ".join(pairing.names)} needs a teacher that has learned, and none of its '
            'checkpoints is given. Mend: mmkd distill STUDENT.py TEACHER.py TEACHER.pth'
        )
    for checkpoint in pairing.checkpoints:
        _check_there(checkpoint)
    for name in pairing.names:
        _check_number(name, len(pairing.checkpoints))
    teachers = [dict(cfg=pairing.teacher, checkpoint=one) for one in pairing.checkpoints]
    if len(teachers) == 1:
        return dict(student=own, teacher=teachers[0])
    return dict(student=own, teachers={f't{n}': one for n, one in enumerate(teachers)})


def _trained(path: str, config: Config) -> dict[str, Any]:
    """Return a member that is trained, with the weights that its own config begins with."""
    # a Distiller's load_from would be a Distiller's checkpoint
    begins = config.get('load_from')
    return dict(cfg=path, checkpoint=begins) if begins else dict(cfg=path)


def _check_there(checkpoint: str) -> None:
    if '://' not in checkpoint and not Path(checkpoint).exists():
        raise FileNotFoundError(
            f'the checkpoint {checkpoint!r} is not there{nearest_file(Path(checkpoint))} (relative '
            f'paths start at {os.getcwd()}){_if_method(checkpoint)}'
        )


def _if_method(checkpoint: str) -> str:
    """Return what to say of a checkpoint that is called as a method is."""
    if checkpoint.partition(':')[0] not in known_methods():
        return ''
    return f'; {checkpoint!r} is a method: --method kd --method {checkpoint}'


def _check_number(name: str, checkpoints: int) -> None:
    """Refuse more or fewer teachers than a method has."""
    wanted = needs_of(find_method(name)).teachers
    if wanted == SEVERAL and checkpoints < 2:
        raise ValueError(
            f'{name} needs several teachers, got one checkpoint. Mend: give several checkpoints: '
            'mmkd distill STUDENT.py TEACHER.py 0.pth 1.pth (mmkd train-ensemble trains them)'
        )
    if wanted == ONE and checkpoints > 1:
        raise ValueError(
            f'{name} needs one teacher, got {checkpoints} checkpoints. Mend: give one of them; of '
            'several teachers: --method end or --method end2-proxy'
        )


# ---------------------------------------------------------------------- another length


def _length(student: Config, pairing: Pairing) -> dict[str, Any]:
    """Return the settings of another length: what a schedule counts shrinks or grows with it."""
    check_count('--iters', pairing.iters, 1)  # type: ignore[arg-type]
    iters = pairing.iters or 1
    own = (student.get('train_cfg') or {}).get('max_iters')
    if own is None:
        raise ValueError(
            f'--iters is a length in iterations, but {pairing.student!r} does not say '
            'train_cfg.max_iters: it counts epochs, or has no loop. Mend: leave --iters out, and '
            'write train_cfg into the config'
        )
    settings: dict[str, Any] = dict(train_cfg=dict(max_iters=iters))
    schedulers = student.get('param_scheduler')
    if iters != own and schedulers:
        settings['param_scheduler'] = scaled(_plain(schedulers), iters / own)
        if isinstance(schedulers, dict):
            settings['param_scheduler']['_delete_'] = True
    return settings


def _plain(value: Any) -> Any:
    return Config(dict(value=value))._cfg_dict.to_dict()['value']
