"""Tables from work dirs, of which nobody types a number: metrics over seeds, time, hardware."""

import html
import re
import statistics
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from textwrap import fill

from mmkd.apis.results import Row, Run
from mmkd.engine.hooks.run_record import FILE
from mmkd.utils.atomic import write_atomically
from mmkd.utils.averages import spread
from mmkd.utils.checks import nearest, printable

# of these the first that there is
MAIN = ('mIoU', 'accuracy/top1', 'coco/bbox_mAP', 'abs_rel', 'mean/mIoU', 'mean/accuracy/top1')
BUDGET = ('iterations', 'batch_size', 'processes')
LESS_IS_BETTER = re.compile(
    r'(.*/)?(abs_rel|sq_rel|rmse(_log)?|mae|mse|log_?10|silog|nll|brier|ece|error|epe|nme|fpr@?\d*|'
    r'm?mr|miss_rate|perplexity|ppl|(\w+[_.])?loss(_\w+)?)',
    re.IGNORECASE,
)


def usual_metric(known: Container[str]) -> str | None:
    """Return what runs are told by: the first of MAIN that is known, or None.

    >>> usual_metric({'abs_rel': 0.2, 'mIoU': 51.0})
    'mIoU'
    """
    return next((metric for metric in MAIN if metric in known), None)


def main_metric(rows: Sequence[Row]) -> str:
    """Return the metric that a table of these rows is about: the usual one of those all have.

    Raises:
        KeyError: There is none.
    """
    shared = set.intersection(*(set(run.metrics) for row in rows for run in row.runs))
    metric = usual_metric(shared)
    if metric is None:
        raise KeyError(_no_usual_metric(rows, shared))
    return metric


def _no_usual_metric(rows: Iterable[Row], shared: set[str]) -> str:
    if shared:
        return f'no usual metric is in every run. Mend: --metric, one of {sorted(shared)}'
    found = (f'{row.label} has {sorted(row.runs[0].metrics)}' for row in rows)
    return f'the runs have no metric in common: {"; ".join(found)}. Mend: rows of one kind of test'


def text(found: object) -> str:
    """Return what a record says as one short line; it is escaped where it is written."""
    return printable(found, 80)


def escaped(cell: str) -> str:
    r"""Return a line as plain text of Markdown: no HTML, no cells.

    >>> escaped('CPU | <script>')
    'CPU \\| &lt;script&gt;'
    """
    return html.escape(cell, quote=False).replace('|', r'\|')


@dataclass(frozen=True)
class Table:
    """A table of rows as plain text, whatever it is written as.

    Args:
        titles: Of the columns.
        lines: A cell a column.
        notes: Sentences on what the runs ran on and whether budgets agree.
        metric: The main metric.
    """

    titles: list[str]
    lines: list[list[str]]
    notes: list[str]
    metric: str


def digits(values: Sequence[float]) -> int:
    """Return how many digits to print after the point.

    Percentages have two, fractions and metres three.

    >>> digits([31.2, 4.]), digits([.312])
    (2, 3)
    """
    return 2 if max(map(abs, values)) >= 2 else 3


def rounded(value: float, places: int) -> float:
    """Return a number as it is printed, without the sign of a zero.

    >>> f'{-0.001:+.2f}', f'{rounded(-0.001, 2):+.2f}'
    ('-0.00', '+0.00')
    """
    return round(value, places) + 0.0


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
    """Return :func:`make_table` as Markdown."""
    return as_markdown(make_table(rows, metrics, baseline, teacher))


def as_markdown(table: Table) -> str:
    """Return a table as Markdown, its notes below it."""
    lines = [table.titles, ['---'] * len(table.titles), *table.lines]
    text = ''.join(f'| {" | ".join(map(escaped, cells))} |\n' for cells in lines)
    return f'{text}\n{escaped(" ".join(table.notes))}\n'


def make_table(
    rows: Sequence[Row],
    metrics: Sequence[str] = (),
    baseline: str | None = None,
    teacher: str | None = None,
) -> Table:
    """Return a table of rows; below it, what they ran on and whether budgets agree.

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
    _check_labels(rows, baseline, teacher)
    metrics = list(metrics) or [main_metric(rows)]
    ends = _ends(rows, metrics[0], baseline, teacher)
    places = {metric: digits(values_of(rows, metric)) for metric in metrics}
    first = places[metrics[0]]
    sign = -1 if less_is_better(metrics[0]) else 1
    titles = [text(metric) + ' ↓' * less_is_better(metric) for metric in metrics]
    head = ['row', f'{text(metrics[0])} of each run', *titles]
    head += ['gain'] * bool(baseline) + ['gap closed'] * bool(teacher) + ['time']
    lines = []
    for row in rows:
        values = row.values(metrics[0])
        each = ', '.join(f'{value:.{first}f}' for value in values)
        means = [spread(row.values(metric), places[metric]) for metric in metrics]
        cells = [text(row.label), each, *means]
        mean = statistics.fmean(values)
        if baseline is not None:
            gain = f'{rounded(sign * (mean - ends[0]), first):+.{first}f}'
            cells.append('–' if row.label == baseline else gain)
        if teacher is not None:
            closed = f'{rounded(gap_closed(mean, *ends), 0):.0f} %'
            cells.append('–' if row.label in (baseline, teacher) else closed)
        lines.append([*cells, _time(row)])
    return Table(head, lines, _conditions(rows, any(map(less_is_better, metrics))), metrics[0])


def _check_labels(rows: Sequence[Row], baseline: str | None, teacher: str | None) -> None:
    labels = [row.label for row in rows]
    if len(set(labels)) < len(labels):
        raise ValueError(f'two rows have one label: {labels}. Mend: LABEL=DIR')
    for name, label in (('baseline', baseline), ('teacher', teacher)):
        if label is not None and label not in labels:
            raise KeyError(
                f'{name}={label!r} is no row{nearest(label, labels)} (rows: {", ".join(labels)})'
            )
    if teacher is not None and baseline is None:
        raise ValueError(
            'the gap is the one between the student alone and its teacher. Mend: --baseline LABEL'
        )


def _ends(
    rows: Sequence[Row], metric: str, baseline: str | None, teacher: str | None
) -> tuple[float, float]:
    """Return the means of the student alone and of its teacher; 0 where the table has none."""
    means = {
        row.label: statistics.fmean(row.values(metric))
        for row in rows
        if row.label in (baseline, teacher)
    }
    alone, taught_by = means.get(baseline or '', 0.0), means.get(teacher or '', 0.0)
    better = taught_by < alone if less_is_better(metric) else taught_by > alone
    if teacher is not None and not better:
        raise ValueError(
            f'{teacher!r} ({metric} {taught_by:.4g}) is not better than {baseline!r} '
            f'({alone:.4g}), so there is no gap to close. Mend: no --teacher'
        )
    return alone, taught_by


def values_of(rows: Sequence[Row], metric: str) -> list[float]:
    """Return a metric of every run of every row."""
    return [value for row in rows for value in row.values(metric)]


def less_is_better(metric: str) -> bool:
    """Return whether a metric is an error, whatever its prefix.

    >>> less_is_better('abs_rel'), less_is_better('ood/error'), less_is_better('mIoU')
    (True, True, False)
    """
    return LESS_IS_BETTER.fullmatch(metric) is not None


def _time(row: Row) -> str:
    records = [run.record for run in row.runs if run.record]
    on_gpu = bool(records) and 'peak_gpu_mib' in records[0]
    key = 'seconds' if on_gpu else 'cpu_seconds'
    if not records or any(key not in record for record in records):
        return '?'
    seconds = statistics.fmean(record[key] for record in records)
    return f'{seconds:.0f} s' + ('' if on_gpu else ' CPU')


def _conditions(rows: Sequence[Row], less: bool) -> list[str]:
    """Return in sentences how many runs there are, what they ran on, and where rows differ."""
    lines = [f'{_count(rows)} a row, mean ± sample standard deviation.']
    if less:
        lines.append('↓: less is better; a gain is for the better.')
    records = [run.record for row in rows for run in row.runs]
    known = [record for record in records if record]
    for key in ('device', 'torch', 'mmkd'):
        said = {text(record.get(key, 'unknown')) for record in known}
        lines.append(f'{key}: {"; ".join(sorted(said)) or "unknown"}.')
    if len(known) < len(records):
        lines.append(f'{len(records) - len(known)} of {len(records)} runs have no {FILE}.')
    early = ', '.join(text(row.label) for row in rows if row.is_tested_before)
    if early:
        lines.append(f'Tested before the training ended, so not its last weights: {early}.')
    budgets = _by_row(rows, _budget)
    lines += _differ('Budgets differ (iterations × batch × processes)', budgets, _varies(budgets))
    images = _by_row(rows, _images)
    lines += _differ('Images with and without labels', images, any(images.values()))
    tests = _by_row(rows, _tested_on)
    lines += _differ('Tests differ (data set × images)', tests, _varies(tests))
    ways = _by_row(rows, _pipeline)
    if len(set(chain.from_iterable(ways.values()))) > 1:
        lines.append('Test pipelines differ, so images are not of one size or one preparation.')
    lines += _differ('Seeds differ', {row.label: _seeds(row) for row in rows if len(row.runs) > 1})
    return lines


def _by_row(rows: Sequence[Row], read: Callable[[Run], str | None]) -> dict[str, list[str]]:
    """Return what is read of the runs of each row, once each; nothing of runs without it."""
    return {row.label: sorted(set(filter(None, map(read, row.runs)))) for row in rows}


def _tested_on(run: Run) -> str:
    known = [text(run.tested_on[key]) for key in ('dataset', 'images') if key in run.tested_on]
    return ' × '.join(known)


def _pipeline(run: Run) -> str:
    return str(run.tested_on.get('pipeline', ''))


def _count(rows: Sequence[Row]) -> str:
    numbers = [len(row.runs) for row in rows]
    least, most = min(numbers), max(numbers)
    return f'{least} to {most} runs' if least < most else f'{most} run{"s" * (most > 1)}'


def _differ(title: str, values: dict[str, list[str]], always: bool = False) -> list[str]:
    """Return a sentence where rows differ in what is known of them, or one row within itself."""
    told = {label: ', '.join(known) for label, known in values.items() if known}
    if len(set(told.values())) <= 1 and not always:
        return []
    return [f'{title}: {"; ".join(f"{label} {known}" for label, known in told.items())}.']


def _varies(values: dict[str, list[str]]) -> bool:
    return any(len(known) > 1 for known in values.values())


def _seeds(row: Row) -> list[str]:
    return sorted(text(run.record.get('seed', '?')) for run in row.runs if run.record)


def _images(run: Run) -> str | None:
    """Return how many images had labels and how many had none, where some had none."""
    found = run.record.get('images')
    if not isinstance(found, dict):
        return None
    return ' + '.join(text(found.get(kind, '?')) for kind in ('labelled', 'unlabelled'))


def _budget(run: Run) -> str | None:
    if not run.record:
        return None
    budget = ' × '.join(text(run.record.get(key, '?')) for key in BUDGET)
    steps = run.record.get('accumulative_counts', 1)
    return budget if steps == 1 else f'{budget}, a step every {steps}'


def write_into(path: Path, name: str, table: str) -> None:
    """Replace what a file has between ``<!-- report NAME -->`` and ``<!-- end of report NAME -->``.

    Sentences are wrapped at 120 columns, rows of the table are not. The rest of the file stays as
    it is, and lines end as that of the first mark does.

    Raises:
        ValueError: The file cannot be read, lacks one of the two lines, or has it twice.
    """
    try:
        text = path.read_bytes().decode()  # as text, every line end would become '\n'
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f'--into {path} cannot be read ({error}). Mend: a text file that is there, with the '
            f'two lines <!-- report {name} --> and <!-- end of report {name} -->'
        ) from error
    begin, end = f'<!-- report {name} -->', f'<!-- end of report {name} -->'
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(
            f'{path} has no place for the table. Mend: the lines {begin} and {end}, once each, in '
            'this order'
        )
    head, rest = text.split(begin)
    wrap = partial(fill, width=120, break_long_words=False, break_on_hyphens=False)
    lines = [line if line.startswith('|') else wrap(line) for line in table.splitlines()]
    line_end = '\r\n' if rest.startswith('\r\n') else '\n'
    new = '\n'.join([begin, *lines, end]).replace('\n', line_end)
    write_atomically(f'{head}{new}{rest.split(end)[1]}'.encode(), path)
