"""From rows to the page: which charts there are, what they say in words, and the template."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmkd.apis.page.charts import Line, line_chart, number, strip_chart, swatch
from mmkd.apis.page.classes import per_class
from mmkd.apis.page.curves import Curve, mean_curve, read_curves
from mmkd.apis.page.differences import Differences
from mmkd.apis.report import (
    digits,
    gap_closed,
    less_is_better,
    make_table,
    rounded,
    text,
    usual_metric,
    values_of,
)
from mmkd.apis.results import Row
from mmkd.version import __version__

LOSSES = 8  # charts of losses at most: those that most rows have
COLUMNS = 8  # of the numbers below a chart


@dataclass(frozen=True)
class Chart:
    """A figure: its name, its picture, and its numbers as a table (titles, lines)."""

    name: str
    picture: Markup
    titles: list[str]
    lines: list[list[str]]


@dataclass(frozen=True)
class RowCurves:
    """The curves of a row: name -> one for each run."""

    label: str
    losses: dict[str, list[Curve]]
    metrics: dict[str, list[Curve]]


def make_page(
    rows: Sequence[Row],
    metrics: Sequence[str] = (),
    baseline: str | None = None,
    teacher: str | None = None,
    differences: Differences | None = None,
    title: str = '',
) -> str:
    """Return the page as HTML.

    Args:
        rows: In the order of the table.
        metrics: Columns of the table, as :func:`mmkd.apis.report.markdown` takes them.
        baseline: Label of the student alone.
        teacher: Label of the teacher.
        differences: Images on which a teacher and its student differ most.
        title: Of the page; by default the metric and the rows.

    Raises:
        KeyError: A label or metric that is not there.
        ValueError: As the table raises it.
    """
    table = make_table(rows, metrics, baseline, teacher)
    curves = [read_row_curves(row) for row in rows]
    labels = [text(row.label) for row in rows]
    return _template().render(
        title=title or f'{table.metric}: {", ".join(labels)}',
        table=table,
        verdict=tell_best(rows, table.metric, baseline, teacher),
        legend=[(label, Markup(swatch(style))) for style, label in enumerate(labels)],
        strip=_strip(rows, table.metric, baseline, teacher),
        validation=_validation_charts(curves, table.metric),
        losses=_loss_charts(curves),
        classes=per_class(rows, baseline),
        differences=differences,
        version=__version__,
        number=number,
        rounded=rounded,
    )


@cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template('page.html')


def read_row_curves(row: Row) -> RowCurves:
    """Return what changed over the iterations of a row's runs, of what all of them log."""
    found = [read_curves(run.folder) for run in row.runs]
    losses, metrics = zip(*found, strict=True)
    return RowCurves(text(row.label), _shared(losses), _shared(metrics))


def _shared(runs: Sequence[dict[str, Curve]]) -> dict[str, list[Curve]]:
    common = set.intersection(*map(set, runs))
    return {name: list(map(itemgetter(name), runs)) for name in runs[0] if name in common}


def tell_best(
    rows: Sequence[Row], metric: str, baseline: str | None, teacher: str | None
) -> str | None:
    """Return a sentence on the best student beside the student alone; None without a baseline."""
    means = {row.label: fmean(row.values(metric)) for row in rows}
    students = [label for label in means if label not in (baseline, teacher)]
    if baseline is None or not students:
        return None
    sign = -1 if less_is_better(metric) else 1
    best = max(students, key=lambda label: sign * means[label])
    places = digits(values_of(rows, metric))
    gain = rounded(sign * (means[best] - means[baseline]), places)
    verb = 'gains' if gain >= 0 else 'loses'
    said = (
        f'{text(best)} {verb} {abs(gain):.{places}f} of {text(metric)} beside {text(baseline)} '
        f'({means[best]:.{places}f} instead of {means[baseline]:.{places}f})'
    )
    if teacher is None:
        return f'{said}.'
    closed = rounded(gap_closed(means[best], means[baseline], means[teacher]), 0)
    return f'{said}: {closed:.0f}\N{NO-BREAK SPACE}% of the gap to {text(teacher)}.'


def _strip(rows: Sequence[Row], metric: str, baseline: str | None, teacher: str | None) -> Chart:
    """Return the chart of every run's metric."""
    places = digits(values_of(rows, metric))
    own = [(text(row.label), row.values(metric), style) for style, row in enumerate(rows)]
    means = {row.label: fmean(row.values(metric)) for row in rows}
    said = [f'{label}: {_listed(values, places)}' for label, values, _ in own]
    about = f'{text(metric)} of each run. {". ".join(said)}.'
    ends = means.get(baseline or ''), means.get(teacher or '')
    picture = strip_chart(text(metric), own, ends, about, 'strip')
    return Chart(text(metric), Markup(picture), [], [])


def _listed(values: Sequence[float], places: int) -> str:
    return ', '.join(f'{value:.{places}f}' for value in values)


def validated(curves: Sequence[RowCurves], metric: str) -> str | None:
    """Return the metric of the curves on the validation set: the main one, else a usual one."""
    had = {name for row in curves for name in row.metrics}
    return metric if metric in had else usual_metric(had)


def _validation_charts(curves: Sequence[RowCurves], metric: str) -> list[Chart]:
    name = validated(curves, metric)
    if name is None:
        return []
    return [_chart(name, [(row.label, row.metrics) for row in curves], 'validation')]


def _loss_charts(curves: Sequence[RowCurves]) -> list[Chart]:
    """Return a chart of each loss, those of most rows first; the sum of all comes last."""
    names = list(dict.fromkeys(name for row in curves for name in row.losses))

    def place(name: str) -> tuple[bool, int, int]:
        count = sum(name in row.losses for row in curves)
        return name == 'loss', -count, names.index(name)

    chosen = sorted(names, key=place)
    if len(chosen) > LOSSES:
        chosen = [*chosen[: LOSSES - 1], 'loss'] if 'loss' in names else chosen[:LOSSES]
    own = [(row.label, row.losses) for row in curves]
    return [_chart(name, own, f'loss{index}') for index, name in enumerate(chosen)]


def _chart(name: str, rows: Sequence[tuple[str, dict[str, list[Curve]]]], identifier: str) -> Chart:
    """Return the chart of one name, and the means as a table of a few iterations."""
    lines = [
        Line(label, found[name], style)
        for style, (label, found) in enumerate(rows)
        if name in found
    ]
    means = [(line.label, dict(mean_curve(line.runs))) for line in lines]
    steps = sorted({step for _, mean in means for step in mean})
    places = {round(i * (len(steps) - 1) / (COLUMNS - 1)) for i in range(COLUMNS)}
    chosen = [steps[place] for place in sorted(places)] if steps else []
    numbers = [[label, *map(_said, map(mean.get, chosen))] for label, mean in means]
    ends = [f'{label} ends at {_said(list(mean.values())[-1])}' for label, mean in means if mean]
    about = f'{text(name)} over the iterations. {"; ".join(ends)}.'
    picture = line_chart(text(name), lines, about, identifier)
    titles = ['iteration', *map(number, chosen)]
    return Chart(text(name), Markup(picture), titles, numbers)


def _said(value: float | None) -> str:
    return '–' if value is None else f'{value:.4g}'
