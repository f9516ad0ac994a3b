"""What runs have found and cost, read from their work dirs."""

import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkd.engine.hooks.run_record import FILE, PER_CLASS, TESTED_ON
from mmkd.utils.checks import nearest

TIME = re.compile(r'\d{8}_\d{6}')
TIMES = ('seconds', 'cpu_seconds', 'peak_gpu_mib')
LARGEST = 1e300  # a sum of numbers beyond it is no float


@dataclass(frozen=True)
class Run:
    """One training: what its newest test found, and what mmkd train wrote of it.

    Args:
        folder: Where it lies.
        metrics: Of the newest test.
        record: What mmkd train wrote of it.
        per_class: Metric -> class -> value of that test; nothing of tests before they were stored.
        tested: When that test began, as its folder is called.
        tested_on: Data set, images and pipeline of that test; nothing of tests before they were
            stored.
    """

    folder: Path
    metrics: dict[str, float]
    record: dict[str, Any] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    tested: str = ''
    tested_on: dict[str, Any] = field(default_factory=dict)

    @property
    def is_tested_before(self) -> bool:
        """Whether the test began before the training ended; one by the same Runner did not."""
        ended = self.record.get('ended')
        known = isinstance(ended, str) and TIME.fullmatch(ended) is not None
        return known and self.tested < str(ended) and self.tested != self.record.get('log')


@dataclass(frozen=True)
class Row:
    """Runs of one recipe that differ by their seed."""

    label: str
    runs: list[Run]

    @property
    def is_tested_before(self) -> bool:
        """Whether the test of any run began before its training ended."""
        return any(run.is_tested_before for run in self.runs)

    def values(self, metric: str) -> list[float]:
        """Return a metric of every run.

        Raises:
            KeyError: A run has no such metric; names the nearest one.
            ValueError: It is not finite.
        """
        for run in self.runs:
            if metric not in run.metrics:
                raise KeyError(
                    f'{run.folder} has no metric {metric!r}{nearest(metric, run.metrics)} (it has: '
                    f'{", ".join(run.metrics)})'
                )
            if not is_finite(run.metrics[metric]):
                raise ValueError(
                    f'{metric} of {run.folder} is {run.metrics[metric]}, and a mean of it says '
                    'nothing. Mend: look into its log, train and test it again'
                )
        return [run.metrics[metric] for run in self.runs]


def read_row(argument: str) -> Row:
    """Read ``DIR`` or ``LABEL=DIR``: a run, or a folder of runs (``seed_0``, ``seed_1``, …).

    The metrics of a run are those of the newest test below it, ``…/<time>/<time>.json`` as
    mmkd test writes them.

    Raises:
        FileNotFoundError: No such folder, or a run that was not tested.
        ValueError: A folder of runs that are not called by their seeds; a seed twice; runs of
            several recipes; a file that is cut short or no dictionary.
    """
    label, path = _split(argument)
    folder = Path(path)
    if not path or not folder.is_dir():
        raise FileNotFoundError(
            f'{path or repr(path)} is no folder. Mend: a work dir of mmkd train, or LABEL=WORK_DIR'
        )
    seeds = sorted((p for p in folder.iterdir() if re.fullmatch(r'seed_?\d+', p.name)), key=_number)
    name = Path(os.path.abspath(folder)).name  # of '.' too; a link keeps its own
    row = Row(label or name, [_read_run(run) for run in seeds or [folder]])
    _check_runs(folder, row)
    return row


def _split(argument: str) -> tuple[str, str]:
    """Return label and path of ``LABEL=DIR``, either of which may hold a '='."""
    if Path(argument).is_dir():
        return '', argument
    label, _, path = argument.rpartition('=')
    first, _, rest = argument.partition('=')
    if label and not Path(path).is_dir() and Path(rest).is_dir():
        return first, rest
    return label, path


def _number(folder: Path) -> int:
    return int(folder.name.strip('sed_'))


def _check_runs(folder: Path, row: Row) -> None:
    """Refuse runs of one seed, or of several recipes: their mean would say nothing."""
    records = [run.record for run in row.runs]
    seeds = [record['seed'] for record in records if record.get('seed') is not None]
    # mmkd compare calls the config of a run by its seed
    named = ((run.record.get('config'), f'{run.folder.name}.py') for run in row.runs)
    configs = [config for config, by_seed in named if config not in (None, by_seed)]
    wrong = ''
    if len(set(seeds)) < len(seeds):
        wrong = f'one seed twice (seed {", ".join(map(str, seeds))})'
    elif len(set(configs)) > 1:
        wrong = f'several recipes (config {", ".join(map(str, configs))})'
    if wrong:
        raise ValueError(
            f'{folder} holds runs of {wrong}, which are no independent runs of one row. Mend: a '
            'folder for each recipe, a run for each seed'
        )


def _read_run(folder: Path) -> Run:
    tests = [
        path
        for path in folder.rglob('*.json')
        if path.stem == path.parent.name and TIME.fullmatch(path.stem)
        if not _is_of_another(path, folder)
    ]
    _check_one_run(folder, tests)
    if not tests:
        raise FileNotFoundError(
            f'{folder} holds no result of a test. Mend: mmkd test CONFIG CHECKPOINT --work-dir '
            f'{folder / "test"}'
        )
    newest = max(tests, key=lambda path: path.stem)
    found = _read_dict(newest, 'test it again')
    metrics = {
        key: _as_float(value)
        for key, value in found.items()
        if _is_number(value) and key not in ('time', 'data_time')
    }
    per_class = _read_per_class(newest.parent / PER_CLASS)
    tested_on = _read_dict_or_none(newest.parent / TESTED_ON, 'test it again')
    return Run(folder, metrics, _read_record(folder / FILE), per_class, newest.stem, tested_on)


def _is_of_another(test: Path, folder: Path) -> bool:
    """Return whether a test lies in a run within this one, such as its teacher's."""
    between = test.relative_to(folder).parents
    inner = [folder / part for part in between if part != Path()]
    return (folder / FILE).is_file() and any((part / FILE).is_file() for part in inner)


def _read_per_class(path: Path) -> dict[str, dict[str, float]]:
    """Return what the test wrote of single classes; those without a value are left out."""
    found = _read_dict_or_none(path, 'test it again')
    values = {metric: classes for metric, classes in found.items() if isinstance(classes, dict)}
    return {metric: _finite(classes) for metric, classes in values.items()}


def _finite(values: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if is_finite(value)}


def _check_one_run(folder: Path, tests: list[Path]) -> None:
    """Refuse a folder of several runs or tests, of which none is the one that is meant."""
    files = [*tests, *folder.glob(f'*/{FILE}')]
    names = {file.relative_to(folder).parts[0] for file in files} - {'test'}
    several = sorted(name for name in names if not TIME.fullmatch(name))
    if not several or (folder / FILE).is_file():
        return
    trained = [(folder / name / FILE).is_file() for name in several]
    if len(several) > 1 or trained[0]:
        raise ValueError(
            f'{folder} {"is a folder of runs" if any(trained) else "holds several tests"}: '
            f'{", ".join(several)}. Mend: one argument LABEL=DIR for each, or seed_0, seed_1, … '
            'for runs of one recipe'
        )


def _as_float(value: float) -> float:
    """Return a number as it is; of whole ones, which JSON has of any size, the largest as inf."""
    return math.inf if isinstance(value, int) and abs(value) > LARGEST else value


def is_finite(value: Any) -> bool:
    """Return whether a value that was read is a number with which one can count.

    >>> is_finite(1.5), is_finite(True), is_finite(float('nan')), is_finite(1.7e308)
    (True, False, False, False)
    """
    return _is_number(value) and abs(value) <= LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_record(path: Path) -> dict[str, Any]:
    """Return what mmkd train wrote of a run; nothing where it wrote nothing."""
    mend = 'train it again, or remove that file'
    record = _read_dict_or_none(path, mend)
    for key in TIMES:
        if key in record and not is_finite(record[key]):
            raise ValueError(
                f'{path}: {key} must be a number, got {record[key]!r:.60}. Mend: {mend}'
            )
    for key in ('seed', 'config'):
        if not isinstance(record.get(key), str | int | None):
            raise ValueError(
                f'{path}: {key} must be a text or a number, got {record[key]!r:.60}. Mend: {mend}'
            )
    return record


def _read_dict_or_none(path: Path, mend: str) -> dict[str, Any]:
    return _read_dict(path, mend) if path.is_file() else {}


def _read_dict(path: Path, mend: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f'{path} is cut short or no JSON ({error}). Mend: {mend}') from error
    if not isinstance(found, dict):
        raise ValueError(
            f'{path} holds a {type(found).__name__} where a dictionary is written. Mend: {mend}'
        )
    return found
