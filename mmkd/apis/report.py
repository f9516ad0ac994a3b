"""Tables from work dirs: metrics over seeds, the gap closed, time and hardware; nobody types a number."""

import html
import json
import math
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

from mmkd.engine.hooks.run_record import FILE
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checks import nearest, printable

MAIN = (
    'mIoU',
    'accuracy/top1',
    'coco/bbox_mAP',
    'abs_rel',
    'mean/mIoU',
    'mean/accuracy/top1',
)  # the first there is
TIME = re.compile(r'\d{8}_\d{6}')
TIMES = ('seconds', 'cpu_seconds', 'peak_gpu_mib')
BUDGET = ('iterations', 'batch_size', 'processes')
LESS_IS_BETTER = re.compile(
    r'(.*/)?(abs_rel|sq_rel|rmse(_log)?|log10|silog|NLL|Brier|ECE|calibration/error)'
)


@dataclass(frozen=True)
class Run:
    """One training: what its newest test found, and what tools/train.py wrote of it."""

    folder: Path
    metrics: dict[str, float]
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """Runs of one recipe that differ by their seed."""

    label: str
    runs: list[Run]

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
            if not math.isfinite(run.metrics[metric]):
                raise ValueError(
                    f'{metric} of {run.folder} is {run.metrics[metric]}, and a mean of it says '
                    f'nothing. '
                    'Mend: look into its log, train and test it again'
                )
        return [run.metrics[metric] for run in self.runs]


def read_row(argument: str) -> Row:
    """Read ``DIR`` or ``LABEL=DIR``: a run, or a folder of runs (``seed_0``, ``seed_1``, …).

    The metrics of a run are those of the newest test below it, ``…/<time>/<time>.json`` as
    tools/test.py writes them.

    Raises:
        FileNotFoundError: No such folder, or a run that was not tested.
        ValueError: A folder of runs that are not called by their seeds; a seed twice; runs of
            several recipes; a file that is cut short or no dictionary.
    """
    label, path = ('', argument) if Path(argument).is_dir() else argument.rpartition('=')[::2]
    if label and not Path(path).is_dir() and Path(argument.partition('=')[2]).is_dir():
        label, path = argument.partition('=')[::2]  # a folder whose name holds a '='
    folder = Path(path)
    if not path or not folder.is_dir():
        raise FileNotFoundError(
            f'{path or repr(path)} is no folder. Mend: a work dir of tools/train.py, or '
            'LABEL=WORK_DIR'
        )
    seeds = sorted((p for p in folder.iterdir() if re.fullmatch(r'seed_?\d+', p.name)), key=_number)
    row = Row(label or folder.name, [_read_run(run) for run in seeds or [folder]])
    for key, what in (('seed', 'one seed twice'), ('config', 'several recipes')):
        found = [run.record.get(key) for run in row.runs if run.record.get(key) is not None]
        if (len(set(found)) < len(found)) if key == 'seed' else (len(set(found)) > 1):
            raise ValueError(
                f'{folder} holds runs of {what} ({key} {", ".join(map(str, found))}), which are no '
                'independent runs of one row. Mend: a folder for each recipe, a run for each seed'
            )
    return row


def _number(folder: Path) -> int:
    return int(folder.name.strip('sed_'))


def _read_run(folder: Path) -> Run:
    tests = [
        path
        for path in folder.rglob('*.json')
        if path.stem == path.parent.name and TIME.fullmatch(path.stem)
    ]
    several = sorted(
        {
            path.relative_to(folder).parts[0]
            for path in (*tests, *folder.glob(f'*/{FILE}'))
            if not TIME.fullmatch(path.relative_to(folder).parts[0])
        }
        - {'test'}
    )
    if (
        several
        and not (folder / FILE).is_file()
        and (len(several) > 1 or (folder / several[0] / FILE).is_file())
    ):
        trained = any((folder / name / FILE).is_file() for name in several)
        raise ValueError(
            f'{folder} {"is a folder of runs" if trained else "holds several tests"}: '
            f'{", ".join(several)}. Mend: one argument LABEL=DIR for each, or seed_0, seed_1, … '
            f'for '
            'runs of one recipe'
        )
    if not tests:
        raise FileNotFoundError(
            f'{folder} holds no result of a test. Mend: tools/test.py CONFIG CHECKPOINT --work-dir '
            f'{folder / "test"}'
        )
    found = _read_dict(max(tests, key=lambda path: path.stem), 'test it again')
    metrics = {
        k: math.inf if isinstance(v, int) and abs(v) > sys.float_info.max else v
        for k, v in found.items()
        if _is_number(v) and k not in ('time', 'data_time')
    }
    return Run(folder, metrics, _read_record(folder / FILE))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_record(path: Path) -> dict[str, Any]:
    """Return what tools/train.py wrote of a run; nothing where it wrote nothing."""
    mend = 'train it again, or remove that file'
    record = _read_dict(path, mend) if path.is_file() else {}
    for key in TIMES:
        if key in record and not _is_number(record[key]):
            raise ValueError(
                f'{path}: {key} must be a number, got {record[key]!r:.60}. Mend: {mend}'
            )
    for key in ('seed', 'config'):
        if not isinstance(record.get(key), str | int | None):
            raise ValueError(
                f'{path}: {key} must be a text or a number, got {record[key]!r:.60}. Mend: {mend}'
            )
    return record


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


def main_metric(rows: Iterable[Row]) -> str:
    """Return the metric that a table of these rows is about: the first of MAIN that all have.

    Raises:
        KeyError: There is none.
    """
    shared = set.intersection(*(set(run.metrics) for row in rows for run in row.runs))
    for metric in MAIN:
        if metric in shared:
            return metric
    raise KeyError(f'no usual metric is in every run. Mend: --metric, one of {sorted(shared)}')


def text(found: object) -> str:
    r"""Return what a record says as plain text of Markdown: one line, no HTML, no cells.

    >>> text('CPU | <script>')
    'CPU \\| &lt;script&gt;'
    """
    return html.escape(printable(found, 80), quote=False).replace('|', r'\|')


def digits(values: Sequence[float]) -> int:
    """Return how many digits to print after the point: percentages have two, fractions and metres three.

    >>> digits([31.2, 4.]), digits([.312])
    (2, 3)
    """
    return 2 if max(map(abs, values)) >= 2 else 3


def spread(values: Sequence[float], places: int) -> str:
    """Return mean ± sample standard deviation; the value alone where there is one.

    >>> spread([1., 2., 3.], 2), spread([.5], 3)
    ('2.00 ± 1.00', '0.500')
    """
    mean = f'{statistics.fmean(values):.{places}f}'
    return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.{places}f}'


def gap_closed(value: float, baseline: float, teacher: float) -> float:
    """Return which part of the way from the student alone to its teacher a row goes, in per cent.

    >>> gap_closed(48., 44., 54.)
    40.0
    """
    return 100 * (value - baseline) / (teacher - baseline)


def markdown(
    rows: Sequence[Row],
    metrics: Sequence[str] = (),
    baseline: str | None = None,
    teacher: str | None = None,
) -> str:
    """Return a Markdown table of rows, and below it what they ran on and whether their budgets agree.

    Args:
        rows: In the order of the table.
        metrics: One column each; none: the main one. The first one decides the gap.
        baseline: Label of the student alone.
        teacher: Label of the teacher; with ``baseline`` a column says how much of the gap a row
            closes.

    Raises:
        KeyError: A label or metric that is not there.
        ValueError: A label twice; a teacher without baseline; a teacher that is not better than the
            student alone.
    """
    by_label = {row.label: row for row in rows}
    if len(by_label) < len(rows):
        raise ValueError(f'two rows have one label: {[row.label for row in rows]}. Mend: LABEL=DIR')
    for name, label in (('baseline', baseline), ('teacher', teacher)):
        if label is not None and label not in by_label:
            raise KeyError(
                f'{name}={label!r} is no row{nearest(label, by_label)} (rows: '
                f'{", ".join(by_label)})'
            )
    if teacher is not None and baseline is None:
        raise ValueError(
            'the gap is the one between the student alone and its teacher. Mend: --baseline LABEL'
        )
    metrics = list(metrics) or [main_metric(rows)]
    ends = [
        statistics.fmean(by_label[label].values(metrics[0])) if label else 0.0
        for label in (baseline, teacher)
    ]
    sign = -1 if LESS_IS_BETTER.fullmatch(metrics[0]) else 1
    if teacher is not None and sign * (ends[1] - ends[0]) <= 0:
        raise ValueError(
            f'{teacher!r} ({metrics[0]} {ends[1]:.4g}) is not better than {baseline!r} '
            f'({ends[0]:.4g}), '
            'so there is no gap to close. Mend: no --teacher'
        )
    places = {
        metric: digits([value for row in rows for value in row.values(metric)])
        for metric in metrics
    }
    first = places[metrics[0]]
    titles = [text(metric) + ' ↓' * bool(LESS_IS_BETTER.fullmatch(metric)) for metric in metrics]
    head = [
        'row',
        f'{text(metrics[0])} of each run',
        *titles,
        *['gain'] * bool(baseline),
        *['gap closed'] * bool(teacher),
        'time',
    ]
    lines = [head, ['---'] * len(head)]
    for row in rows:
        values = row.values(metrics[0])
        cells = [
            text(row.label),
            ', '.join(f'{v:.{first}f}' for v in values),
            *(spread(row.values(metric), places[metric]) for metric in metrics),
        ]
        mean = statistics.fmean(values)
        if baseline is not None:
            cells.append('–' if row.label == baseline else f'{sign * (mean - ends[0]):+.{first}f}')
        if teacher is not None:
            cells.append(
                '–' if row.label in (baseline, teacher) else f'{gap_closed(mean, *ends):.0f} %'
            )
        lines.append([*cells, _time(row)])
    return (
        '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
        + '\n\n'
        + _conditions(rows, '↓' in str(titles))
    )


def _time(row: Row) -> str:
    records = [run.record for run in row.runs if run.record]
    on_gpu = bool(records) and 'peak_gpu_mib' in records[0]
    key = 'seconds' if on_gpu else 'cpu_seconds'
    if not records or any(key not in record for record in records):
        return '?'
    seconds = statistics.fmean(record[key] for record in records)
    return f'{seconds:.0f} s' + ('' if on_gpu else ' CPU')


def _conditions(rows: Sequence[Row], less: bool) -> str:
    records = [run.record for row in rows for run in row.runs]
    known = [record for record in records if record]
    numbers = sorted({len(row.runs) for row in rows})
    runs = (
        f'{numbers[0]} run{"s" * (numbers[0] > 1)}'
        if len(numbers) == 1
        else f'{numbers[0]} to {numbers[-1]} runs'
    )
    lines = [
        f'{runs} a row, mean ± sample standard deviation.',
        *['↓: less is better; a gain is for the better.'] * less,
    ]
    for key in ('device', 'torch', 'mmkd'):
        said = {text(record.get(key, 'unknown')) for record in known}
        lines.append(f'{key}: {"; ".join(sorted(said)) or "unknown"}.')
    if len(known) < len(records):
        lines.append(f'{len(records) - len(known)} of {len(records)} runs have no {FILE}.')
    budgets = {
        row.label: sorted({_budget(run.record) for run in row.runs if run.record}) for row in rows
    }
    seeds = {
        row.label: sorted(text(run.record.get('seed', '?')) for run in row.runs if run.record)
        for row in rows
        if len(row.runs) > 1
    }
    for title, each in (
        ('Budgets differ (iterations × batch × processes)', budgets),
        ('Seeds differ', seeds),
    ):
        told = {label: ', '.join(values) for label, values in each.items() if values}
        if len(set(told.values())) > 1 or (
            each is budgets and any(len(values) > 1 for values in each.values())
        ):
            lines.append(
                f'{title}: {"; ".join(f"{label} {values}" for label, values in told.items())}.'
            )
    return ' '.join(lines) + '\n'


def _budget(record: dict[str, Any]) -> str:
    budget = ' × '.join(text(record.get(key, '?')) for key in BUDGET)
    steps = record.get('accumulative_counts', 1)
    return budget if steps == 1 else f'{budget}, a step every {steps}'


def write_into(path: Path, name: str, table: str) -> None:
    """Replace what stands between ``<!-- report NAME -->`` and ``<!-- end of report NAME -->`` in a file.

    Sentences are wrapped at 120 columns, rows of the table are not.

    Raises:
        ValueError: The file cannot be read, lacks one of the two lines, or has it twice.
    """
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f'--into {path} cannot be read ({error}). Mend: a text file that is there, with the '
            f'two lines '
            f'<!-- report {name} --> and <!-- end of report {name} -->'
        ) from error
    begin, end = f'<!-- report {name} -->', f'<!-- end of report {name} -->'
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(
            f'{path} has no place for the table. Mend: the lines {begin} and {end}, once each, in '
            f'this '
            'order'
        )
    head, rest = text.split(begin)
    wrap = partial(fill, width=120, break_long_words=False, break_on_hyphens=False)
    lines = [line if line.startswith('|') else wrap(line) for line in table.splitlines()]
    new = '\n'.join([begin, *lines, end])
    write_atomically(f'{head}{new}{rest.split(end)[1]}'.encode(), path)
