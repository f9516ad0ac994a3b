"""From two configs and a checkpoint to a student: a config is written, checked, and trained by."""

from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console

from mmkd.apis.doctor import Report, diagnose
from mmkd.apis.launch import build_runner, load_config, train
from mmkd.apis.pairing import RUN, Pairing, write_config
from mmkd.apis.prepare import prepare_config
from mmkd.apis.runs import (
    NoteBegin,
    begun_by,
    digest_of,
    digest_of_file,
    read_note,
    write_note,
)
from mmkd.distiller import export_student
from mmkd.utils.checkpoints import latest_checkpoint
from mmkd.utils.config_file import read_config
from mmkd.utils.work_dir import hold, release

STUDENT = 'student'
LOOKED_AT = 2  # batches of each split that the check reads


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

    A run that was interrupted goes on; one that these settings finished is tested and exported
    again.

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
        FileExistsError: Another config, an edited one perhaps, is there, or a run that other
            settings began or finished.
        FileNotFoundError: A config or a checkpoint is not there.
        KeyError: There is no such method.
        TypeError: An option that it does not have.
        ValueError: A config that the student cannot be trained by, or whose run saves nothing.
    """
    run = pairing.folder / RUN
    if run.is_dir() or not dry_run:
        hold(run)  # else its config would be written anew beneath a run that goes on
    try:
        return _distill(pairing, console, options, amp, dry_run, overwrite, verbose)
    finally:
        release(run)
        with suppress(OSError):  # it holds a run
            run.rmdir()


def _distill(
    pairing: Pairing,
    console: Console,
    options: dict[str, Any] | None,
    amp: bool,
    dry_run: bool,
    overwrite: bool,
    verbose: bool,
) -> bool:
    path = write_config(pairing, overwrite, options)
    console.print(f'config: {path}', markup=False, soft_wrap=True)
    cfg = load_config(str(path), options)
    settings = _digest(cfg, pairing, amp)
    report = _check(cfg, verbose)
    report.errors = [_as_command(one, path) for one in report.errors]
    report.print(console)
    if not report.ok:
        console.print(f'Mend {path}, then: mmkd train {path}', markup=False, soft_wrap=True)
    if dry_run or not report.ok:
        return report.ok
    metrics = _train(cfg, settings, amp, overwrite, verbose, console)
    students = _export(cfg, path.parent / STUDENT)
    _tell(path, cfg, metrics, students, console)
    return True


# ---------------------------------------------------------------------- the run


def _check(cfg: Config, verbose: bool) -> Report:
    """Check a config as the doctor does, without what libraries say meanwhile."""
    MMLogger.get_instance('mmkd_check', log_level='INFO' if verbose else 'ERROR')
    report = diagnose(cfg, batches=LOOKED_AT, val_batches=LOOKED_AT)
    MMLogger.get_instance('mmkd_distill', log_level='INFO')  # what is said from here on is read
    return report


def _as_command(error: str, path: Path) -> str:
    """Return an error of the doctor, whose flag is not one of this command.

    >>> _as_command('Mend: …; --fake-data checks all else', Path('distill.py'))
    'Mend: …; mmkd doctor distill.py --fake-data checks all else'
    """
    return error.replace('--fake-data', f'mmkd doctor {path} --fake-data')


def _digest(cfg: Config, pairing: Pairing, amp: bool) -> str:
    """Return a digest of what a run is made by; members stand in files of their own."""
    files = [one for one in (pairing.student, pairing.teacher) if one is not None]
    members = [read_config(one).get('model') for one in files]
    weights = [digest_of_file(one) for one in pairing.checkpoints]
    return digest_of(dict(run=cfg.to_dict(), members=members, weights=weights, amp=amp))


def _train(
    cfg: Config, settings: str, amp: bool, overwrite: bool, verbose: bool, console: Console
) -> dict[str, Any]:
    """Train, unless the run is finished, then test; return what the test says."""
    folder = Path(cfg.work_dir)
    begun = None if overwrite else begun_by(folder)
    last = None if overwrite else latest_checkpoint(_checkpoints(cfg))
    finished = last if _is_finished(folder, last, settings) else None
    if finished:
        cfg.load_from = finished
        console.print(f'trained already: {finished}', markup=False, soft_wrap=True)
    elif last:
        if begun not in (None, settings):
            raise FileExistsError(_OTHERS.format(folder, 'begun'))
        cfg.resume = True
        console.print(f'goes on from {last}', markup=False, soft_wrap=True)
    elif begun == settings:
        overwrite = True
        console.print('left before its first checkpoint: it begins anew', markup=False)
    cfg.overwrite = overwrite
    prepare_config(cfg, amp=amp)
    if not finished:
        _check_saves(cfg)
    runner = build_runner(cfg, verbose)
    if not finished:
        runner.register_hook(NoteBegin(settings))
        train(runner)
        write_note(folder, dict(checkpoint=_last(cfg).name, settings=settings))
    return runner.test() if cfg.get('test_dataloader') else {}


def _is_finished(folder: Path, last: str | None, settings: str) -> bool:
    """Return whether the run of the last checkpoint is finished.

    Raises:
        FileExistsError: It is, by other settings.
    """
    note = None if last is None else read_note(folder, ('checkpoint', 'settings'))
    if note is None or note['checkpoint'] != Path(str(last)).name:
        return False
    if note['settings'] != settings:
        raise FileExistsError(_OTHERS.format(folder, 'finished'))
    return True


_OTHERS = (
    '{} holds a run that was {} by other settings: other --cfg-options, --amp, an edited config or '
    "other weights of a teacher's. Mend: --overwrite begins anew; --name takes another folder"
)


def _checkpoints(cfg: Config) -> Path:
    """Return the folder of a run's checkpoints, as mmengine joins it."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    folder, work_dir = hook.get('out_dir'), Path(cfg.work_dir)
    return work_dir if folder in (None, cfg.work_dir) else Path(folder, work_dir.name)


def _check_saves(cfg: Config) -> None:
    """Refuse a run that would end without a checkpoint."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint', {})
    saves = hook is not None
    if hook and hook.get('save_last', True) is False:
        length = cfg.train_cfg.get('max_epochs' if hook.get('by_epoch', True) else 'max_iters')
        saves = length is None or 0 < hook.get('interval', -1) <= length
    if not saves:
        raise ValueError(
            'the run would end without a checkpoint, and so without a student: default_hooks.'
            f'checkpoint={hook and dict(hook)!r}. Mend: save_last=True, or an interval within the '
            'run'
        )


def _last(cfg: Config) -> Path:
    """Return the last checkpoint of a run that is over.

    Raises:
        ValueError: There is none.
    """
    last = latest_checkpoint(_checkpoints(cfg))
    if last is None:
        raise ValueError(
            f'no checkpoint of the run lies in {_checkpoints(cfg)}, so there is no student to '
            'export. Mend: default_hooks.checkpoint=dict(save_last=True), without an out_dir of '
            'elsewhere'
        )
    return Path(last)


def _export(cfg: Config, folder: Path) -> list[Path]:
    """Write every student as a plain model; return the paths of the weights."""
    names = list(cfg.model.get('students') or ['student'])
    return [export_student(str(_last(cfg)), folder, name)[0] for name in names]


def _tell(
    path: Path, cfg: Config, metrics: dict[str, Any], students: list[Path], console: Console
) -> None:
    numbers = {key: float(one) for key, one in metrics.items() if isinstance(one, Real)}
    told = ', '.join(f'{key} {one:.4g}' for key, one in numbers.items())
    lines = [f'test: {told}'] * bool(told)
    lines += [f'student: {one} (config.py beside it)' for one in students]
    lines += [
        f'run: {cfg.work_dir}',
        f'another run: edit {path}, then mmkd train {path} --overwrite',
    ]
    console.print('\n'.join(lines), markup=False, highlight=False, soft_wrap=True)
