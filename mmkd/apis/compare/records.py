"""What a run of a comparison leaves in its folder, and whether it is the run that is asked for."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkd.apis.page.curves import Curve, read_curves
from mmkd.apis.report import MAIN, less_is_better
from mmkd.apis.results import is_finite, read_row
from mmkd.engine.hooks.gradient_share import FILE as SHARES
from mmkd.engine.hooks.run_record import FILE as RUN
from mmkd.engine.hooks.step_clock import FILE as STEPS
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checkpoints import latest_checkpoint
from mmkd.utils.config_file import readable_text
from mmkd.utils.work_dir import newest_of_run

ITERATION = re.compile(r'_iter_(\d+)\.pth$')
RESULT, TRAINED = 'result.json', 'trained.json'
SIGNED = '# mmkd compare: '  # before a digest: of a run's settings, of best.py as it was written


def config_path(folder: Path) -> Path:
    """Return where the config of a run lies: mmengine writes one of the same name into its folder.

    >>> config_path(Path('kd/seed_0')).as_posix()
    'kd/seed_0.py'
    """
    return folder.parent / f'{folder.name}.py'


def write_config(cfg: Config, folder: Path, digest: str) -> None:
    """Write the config of a run, signed by its settings."""
    whole = Config({**cfg.to_dict(), 'work_dir': folder.as_posix()})
    write_atomically(f'{SIGNED}{digest}\n{readable_text(whole)}'.encode(), config_path(folder))


def digest_there(folder: Path) -> str | None:
    """Return by which settings a run began; None where none did."""
    path = config_path(folder)
    if not path.is_file() or not folder.is_dir():
        return None
    return _first_line(path).removeprefix(SIGNED)


def _first_line(path: Path) -> str:
    return path.read_text(encoding='utf-8', errors='replace').partition('\n')[0]


def check_run(folder: Path, digest: str, overwrite: bool = False) -> None:
    """Refuse a run of other settings; take it away where that was asked for.

    Raises:
        FileExistsError: There is one, or a file that no comparison wrote is where its config goes.
    """
    path = config_path(folder)
    if path.is_file() and not _first_line(path).startswith(SIGNED):
        raise FileExistsError(
            f'{path} is no config that a comparison wrote, and would be written over. Mend: '
            '--work-dir takes another folder'
        )
    known = [digest_there(folder), *(one['settings'] for one in _notes(folder))]
    foreign = not any(known) and newest_of_run(folder) is not None
    if all(one in (None, digest) for one in known) and not foreign:
        return
    if not overwrite:
        what = (
            'that no comparison began'
            if foreign
            else 'of other settings: another pair, teacher, length, option, weight, precision or '
            'preset than now'
        )
        raise FileExistsError(
            f'{folder} holds a run {what}. Mend: --work-dir takes another folder; --overwrite '
            'begins it anew'
        )
    shutil.rmtree(folder)


def is_run_of(folder: Path, digest: str) -> bool:
    """Return whether the run in a folder is of these settings."""
    return digest in (digest_there(folder), *(one['settings'] for one in _notes(folder)))


def _notes(folder: Path) -> list[dict[str, Any]]:
    found = [read_note(folder / name) for name in (RESULT, TRAINED)]
    return [one for one in found if one is not None]


def read_note(path: Path) -> dict[str, Any] | None:
    """Return a record; None where there is none.

    Raises:
        ValueError: It cannot be read.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(found, dict) or 'settings' not in found:
            raise ValueError('it is no record of a comparison')
    except ValueError as error:
        raise ValueError(
            f'{path} cannot be read ({error}). Mend: remove it, and the run goes on or is tested '
            'again'
        ) from error
    return found


def write_note(path: Path, note: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all."""
    write_atomically((json.dumps(note, indent=1, ensure_ascii=False) + '\n').encode(), path)


# ---------------------------------------------------------------------- what a run found


def read_training(folder: Path, tested: str, by_epoch: bool = False) -> dict[str, Any]:
    """Return what a finished training wrote of itself.

    Args:
        folder: Of the run.
        tested: Name of the checkpoint that is tested; its validation is the best one.
        by_epoch: Whether the run counts epochs, so that its validations tell no iteration.

    A validation that is no number, or that a kill has left out, is None: one of earlier weights
    says nothing of these.

    Raises:
        FileNotFoundError: It wrote nothing.
    """
    run = json.loads((folder / RUN).read_text(encoding='utf-8'))
    steps = json.loads((folder / STEPS).read_text(encoding='utf-8'))
    curves = read_curves(folder, finite=False)[1]
    shares = folder / SHARES
    return dict(
        iterations=run['iterations'],
        validation=dict(
            last={
                name: _last(curve, None if by_epoch else run['iterations'])
                for name, curve in curves.items()
            },
            best={name: _at(tested, name, curve) for name, curve in curves.items()},
        ),
        seconds=run['seconds'],
        processor_seconds=run['cpu_seconds'],
        step_ms=steps['wall_ms'],
        step_processor_ms=steps['processor_ms'],
        peak_gpu_mib=run.get('peak_gpu_mib'),
        gradient_shares=json.loads(shares.read_text(encoding='utf-8')) if shares.is_file() else {},
        **{key: run[key] for key in ('device', 'torch', 'mmkd', 'ended')},
    )


def best_of(metric: str, curve: Curve) -> float | None:
    """Return the best value of a curve; None without a number.

    >>> best_of('mIoU', [(1, 40.0), (2, 42.0)]), best_of('abs_rel', [(1, 0.2), (2, 0.3)])
    (42.0, 0.2)
    """
    values = [value for _, value in curve if is_finite(value)]
    if not values:
        return None
    return min(values) if less_is_better(metric) else max(values)


def _last(curve: Curve, iterations: int | None) -> float | None:
    """Return the validation of the last weights; None where there is none of them.

    >>> _last([(100, 40.0), (200, 42.0)], 200), _last([(100, 40.0)], 200)
    (42.0, None)
    """
    step, value = curve[-1]
    there = iterations is None or step == iterations
    return value if there and is_finite(value) else None


def _at(tested: str, metric: str, curve: Curve) -> float | None:
    """Return the validation of a checkpoint; None where its name does not tell which that is.

    >>> _at('best_mIoU_iter_200.pth', 'aAcc', [(100, 90.0), (200, 80.0)])
    80.0
    >>> _at('best_mIoU_epoch_1.pth', 'aAcc', [(100, 90.0)])
    >>> _at('best_mIoU_epoch_2.pth', 'mIoU', [(100, 40.0), (200, 42.0)])
    42.0
    """
    found = ITERATION.search(tested)
    of_another = tested.startswith('best_') and not tested.startswith(_best_by(metric))
    usual = None if of_another else best_of(metric, curve)
    value = dict(curve).get(int(found[1]) if found else -1, usual)
    return value if is_finite(value) else None


def _best_by(metric: str) -> str:
    """Return what the checkpoint of the best weights by a metric begins with."""
    return f'best_{metric.replace("/", "_")}_'


def read_test(folder: Path) -> dict[str, float]:
    """Return the metrics of the newest test in a folder."""
    return read_row(str(folder)).runs[0].metrics


def tested_checkpoint(cfg: Config, folder: Path) -> tuple[Path, str]:
    """Return which weights of a finished training are tested, and whether 'best' or 'last' ones.

    Where the best are kept by several metrics, those by the first usual one.

    Raises:
        FileNotFoundError: There are none.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    best = sorted(folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    if hook.get('save_best') and best:
        for metric in MAIN:
            of_metric = [path for path in best if path.name.startswith(_best_by(metric))]
            if of_metric:
                return of_metric[-1], 'best'
        return best[-1], 'best'
    last = latest_checkpoint(folder)
    if last is None:
        raise FileNotFoundError(
            f'{folder} holds no checkpoint that could be tested. Mend: default_hooks.checkpoint='
            'dict(save_last=True), without an out_dir'
        )
    return Path(last), 'last'
