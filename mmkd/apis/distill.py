"""From two configs and a checkpoint to a student: a config is written, checked, and trained by."""

import os
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console

from mmkd.apis.doctor import Report, diagnose
from mmkd.apis.launch import build_runner, load_config, train
from mmkd.apis.prepare import is_distiller, prepare_config
from mmkd.apis.runs import NOTE, read_note, write_note
from mmkd.distiller import export_student
from mmkd.methods.expand import find_method
from mmkd.methods.plan import PEERS, needs_of
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checkpoints import latest_checkpoint
from mmkd.utils.checks import check_count, nearest_file
from mmkd.utils.config_file import read_config
from mmkd.utils.config_text import assignments

FILE, RUN, STUDENT = 'distill.py', 'run', 'student'
LENGTHS = ('begin', 'end', 'T_max', 'step_size', 'total_iters')  # of schedules, in iterations
LOOKED_AT = 2  # batches of each split that the check reads


@dataclass(frozen=True)
class Pairing:
    """What is to be distilled, as the command line says it.

    Args:
        student: The student's config, a path or ``pkg::path``.
        teacher: The teacher's config; of peers the other one's.
        checkpoints: The teacher's weights; several are several teachers of one config.
        methods: Names of methods.
        name: Of the folder; None: ``<student>_<method>``.
        work_dir: The folder; None: ``work_dirs/<name>``.
        iters: Length of the run; None: the student's.
        seed: Of the run; None: the student's.
    """

    student: str
    teacher: str
    checkpoints: tuple[str, ...] = ()
    methods: tuple[str, ...] = ('kd',)
    name: str | None = None
    work_dir: str | None = None
    iters: int | None = None
    seed: int | None = None

    @property
    def folder(self) -> Path:
        """Where everything is written.

        >>> Pairing('mmseg::pspnet/small.py', 'big.py', methods=('kd', 'skd-pa')).folder.as_posix()
        'work_dirs/small_kd+skd-pa'
        """
        student = Path(self.student.split('::')[-1]).stem
        name = self.name or f'{student}_{"+".join(self.methods)}'
        return Path(self.work_dir) if self.work_dir else Path('work_dirs') / name

    @property
    def peers(self) -> bool:
        """Whether a method is of peers, without a teacher."""
        return any(needs_of(find_method(name)).teachers == PEERS for name in self.methods)


def distill(
    pairing: Pairing,
    console: Console,
    options: dict[str, Any] | None = None,
    amp: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
) -> bool:
    """Write the config, check it as the doctor does, train, test, and export the student.

    A run that was interrupted goes on; one that is finished is tested and exported again.

    Args:
        pairing: What is to be distilled.
        console: Where it is told.
        options: Settings of this run alone, ``key.key`` -> value.
        amp: Mixed precision.
        dry_run: Whether to stop before the training.
        overwrite: Whether to write another config over one that is there, and begin anew.
        verbose: Whether the terminal shows all that the log file holds.

    Returns:
        Whether the config can be trained by; False where the check found errors.

    Raises:
        FileExistsError: Another config, an edited one perhaps, is there.
        FileNotFoundError: A config or a checkpoint is not there.
        KeyError: There is no such method.
        ValueError: A config that the student cannot be trained by.
    """
    path = write_config(pairing, overwrite)
    console.print(f'config: {path}', markup=False, soft_wrap=True)
    cfg = load_config(str(path), options)
    report = _check(cfg, verbose)
    report.print(console)
    if not report.ok:
        console.print(f'Mend {path}, then: mmkd train {path}', markup=False, soft_wrap=True)
    if dry_run or not report.ok:
        return report.ok
    metrics = _train(cfg, amp, overwrite, verbose, console)
    students = _export(cfg, path.parent / STUDENT)
    _tell(path, cfg, metrics, students, console)
    return True


# ---------------------------------------------------------------------- the config


def write_config(pairing: Pairing, overwrite: bool = False) -> Path:
    """Write ``distill.py`` into the pairing's folder; return its path.

    Raises:
        FileExistsError: Another one is there: a person may have edited it.
    """
    text = config_text(pairing)
    path = pairing.folder / FILE
    if path.exists() and path.read_text(encoding='utf-8') != text and not overwrite:
        raise FileExistsError(
            f'{path} is there and says something else than this command would write; it may have '
            f'been edited. Mend: mmkd train {path} goes on by it; --name or --work-dir for '
            'another folder; --overwrite writes it anew'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(text.encode(), path)
    return path


def config_text(pairing: Pairing) -> str:
    """Return the config of a pairing, as a person would have written it.

    Raises:
        FileNotFoundError: A config or a checkpoint is not there.
        KeyError: There is no such method.
        ValueError: The student's config is a Distiller's; checkpoints of peers, or none of a
            teacher; a length that the config's loop does not have.
    """
    for name in pairing.methods:
        find_method(name)
    student = read_config(pairing.student)
    read_config(pairing.teacher)
    if is_distiller(student):
        raise ValueError(
            f'the config {pairing.student!r} is that of a Distiller, not of a student. Mend: the '
            "config that its student is trained by alone; mmkd train trains a Distiller's"
        )
    members = _members(pairing, student)
    method: Any = list(pairing.methods) if len(pairing.methods) > 1 else pairing.methods[0]
    settings: dict[str, Any] = dict(
        _base_=_base(pairing),
        work_dir=(pairing.folder / RUN).as_posix(),
        model=dict(_delete_=True, type='mmkd.Distiller', **members, method=method),
    )
    if student.get('load_from'):
        settings['load_from'] = None
    if pairing.seed is not None:
        settings['randomness'] = dict(seed=pairing.seed)
    if pairing.iters is not None:
        settings |= _length(student, pairing)
    about = 'data, schedule and runtime are those of the student alone'
    return f'# {" + ".join(pairing.methods)}: {about}\n{assignments(settings)}\n'


def _base(pairing: Pairing) -> str:
    """Return the student's config as the written file names it."""
    if '::' in pairing.student:
        return pairing.student
    return Path(os.path.relpath(pairing.student, pairing.folder)).as_posix()


def _members(pairing: Pairing, student: Config) -> dict[str, Any]:
    own = dict(cfg=pairing.student)
    if student.get('load_from'):
        # a Distiller's load_from would be a Distiller's checkpoint
        own['checkpoint'] = student.load_from
    if pairing.peers:
        if pairing.checkpoints:
            raise ValueError(
                f'{" + ".join(pairing.methods)} has no teacher: peers begin alike, got the '
                f'checkpoint {pairing.checkpoints[0]!r}. Mend: leave it out'
            )
        return dict(students=dict(peer0=own, peer1=dict(cfg=pairing.teacher)))
    if not pairing.checkpoints:
        raise ValueError(
            f'{" + ".join(pairing.methods)} needs a teacher that has learned, and none of its '
            'checkpoints is given. Mend: mmkd distill STUDENT.py TEACHER.py TEACHER.pth'
        )
    for checkpoint in pairing.checkpoints:
        _check_there(checkpoint)
    teachers = [dict(cfg=pairing.teacher, checkpoint=one) for one in pairing.checkpoints]
    if len(teachers) == 1:
        return dict(student=own, teacher=teachers[0])
    return dict(student=own, teachers={f't{n}': one for n, one in enumerate(teachers)})


def _check_there(checkpoint: str) -> None:
    if '://' not in checkpoint and not Path(checkpoint).exists():
        raise FileNotFoundError(
            f'the checkpoint {checkpoint!r} is not there{nearest_file(Path(checkpoint))} (relative '
            f'paths start at {os.getcwd()})'
        )


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
        settings['param_scheduler'] = _scaled(_plain(schedulers), iters / own)
        if isinstance(schedulers, dict):
            settings['param_scheduler']['_delete_'] = True
    return settings


def _scaled(node: Any, factor: float) -> Any:
    """Scale what schedules count in iterations.

    >>> _scaled([dict(type='LinearLR', begin=0, end=100, by_epoch=False)], 0.1)
    [{'type': 'LinearLR', 'begin': 0, 'end': 10, 'by_epoch': False}]
    """
    if isinstance(node, list):
        return [_scaled(one, factor) for one in node]
    if not isinstance(node, dict):
        return node
    scaled: dict[str, Any] = {}
    for key, value in node.items():
        if key in LENGTHS and isinstance(value, int):
            scaled[key] = max(min(value, 1), round(value * factor))
        elif key == 'milestones':
            scaled[key] = [max(1, round(one * factor)) for one in value]
        else:
            scaled[key] = _scaled(value, factor) if isinstance(value, dict | list) else value
    return scaled


def _plain(value: Any) -> Any:
    return Config(dict(value=value))._cfg_dict.to_dict()['value']


# ---------------------------------------------------------------------- the run


def _check(cfg: Config, verbose: bool) -> Report:
    """Check a config as the doctor does, without what libraries say meanwhile."""
    MMLogger.get_instance('mmkd_check', log_level='INFO' if verbose else 'ERROR')
    report = diagnose(cfg, batches=LOOKED_AT, val_batches=LOOKED_AT)
    MMLogger.get_instance('mmkd_distill', log_level='INFO')  # what is said from here on is read
    return report


def _train(
    cfg: Config, amp: bool, overwrite: bool, verbose: bool, console: Console
) -> dict[str, Any]:
    """Train, unless the run is finished, then test; return what the test says."""
    folder = Path(cfg.work_dir)
    length = (cfg.get('train_cfg') or {}).get('max_iters')
    note = None if overwrite else read_note(folder, ('max_iters',))
    finished = note is not None and note['max_iters'] == length and latest_checkpoint(folder)
    if finished:
        cfg.load_from = finished
        console.print(f'trained already: {finished}', markup=False, soft_wrap=True)
    elif not overwrite and folder.is_dir() and latest_checkpoint(folder):
        cfg.resume = True
        console.print(f'goes on from {latest_checkpoint(folder)}', markup=False, soft_wrap=True)
    cfg.overwrite = overwrite
    runner = build_runner(prepare_config(cfg, amp=amp), verbose)
    if not finished:
        (folder / NOTE).unlink(missing_ok=True)  # of a run that begins anew
        train(runner)
        write_note(folder, dict(max_iters=length))
    return runner.test() if cfg.get('test_dataloader') else {}


def _export(cfg: Config, folder: Path) -> list[Path]:
    """Write every student as a plain model; return the paths of the weights."""
    checkpoint = latest_checkpoint(cfg.work_dir)
    if checkpoint is None:
        return []
    names = list(cfg.model.get('students') or ['student'])
    return [export_student(checkpoint, folder, name)[0] for name in names]


def _tell(
    path: Path, cfg: Config, metrics: dict[str, Any], students: list[Path], console: Console
) -> None:
    numbers = {key: float(one) for key, one in metrics.items() if isinstance(one, Real)}
    told = ', '.join(f'{key} {one:.4g}' for key, one in numbers.items())
    lines = [f'test: {told}'] * bool(told)
    lines += [f'student: {one} (config.py beside it)' for one in students]
    lines += [f'run: {cfg.work_dir}', f'go on editing: {path}, then mmkd train {path}']
    console.print('\n'.join(lines), markup=False, highlight=False, soft_wrap=True)
