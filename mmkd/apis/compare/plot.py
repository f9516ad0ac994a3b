"""The plot of a comparison: quality over seconds."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any

from mmkd.apis.compare.rows import ENOUGH, all_on_gpu
from mmkd.apis.compare.specs import ALONE
from mmkd.apis.page.curves import Curve, mean_curve, read_curves
from mmkd.apis.page.picture import DASHES, SHAPES
from mmkd.apis.report import less_is_better, text
from mmkd.utils.atomic import write_atomically

NAME = 'compare'
ROWS = 'compare_rows'
FORMATS = ('png', 'svg')
SEVERAL = 8  # rows that lines of their own can be told apart in
GAINS, LOSES, WITHIN, UNJUDGED = '#0072b2', '#d55e00', '0.55', '0.8'


def over_seconds(folders: Sequence[Path], metric: str, step_ms: float) -> list[Curve]:
    """Return the validations of each run over the seconds of its training steps.

    Args:
        folders: Of the runs.
        metric: That is drawn.
        step_ms: Of one iteration.
    """
    curves = (read_curves(folder)[1].get(metric, []) for folder in folders)
    return [_at_seconds(curve, step_ms) for curve in curves]


def _at_seconds(curve: Curve, step_ms: float) -> Curve:
    return [(step * step_ms / 1000, value) for step, value in curve]


def draw(
    rows: Sequence[Mapping[str, Any]],
    folders: Mapping[str, Sequence[Path]],
    metric: str,
    validated: float | None,
    tested: float | None,
    work_dir: Path,
) -> None:
    """Draw the validations over the seconds of training, and the tests over those of a run.

    Args:
        rows: As the table has them.
        folders: Of the runs of each row.
        metric: That is compared.
        validated: The teacher's on the validation set.
        tested: The teacher's on the test set.
        work_dir: ``compare.png`` and ``compare.svg`` are written there.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing of the process's own is changed

    figure = Figure(figsize=(11, 4.5), layout='constrained')
    left, right = figure.subplots(1, 2)
    clock, spent, whose = _clock(rows)
    told = [row['method'] for row in in_order(rows, metric)][:SEVERAL] + [ALONE]
    for row in sorted(rows, key=lambda row: row['method'] in told):  # the others lie below
        name, colour, shape, style = None, '0.8', '.', dict(color='0.8', linestyle='-')
        if row['method'] in told:
            index = told.index(row['method'])
            name, colour, shape = _plain(row['method']), f'C{index}', SHAPES[index % len(SHAPES)]
            style = dict(color=colour, linestyle=DASHES[index % len(DASHES)])
        if row[clock] is not None and not row.get('validated_apart'):
            _draw_curves(left, over_seconds(folders[row['method']], metric, row[clock]), style)
        right.errorbar(
            row[spent], row['mean'], yerr=row['sd'], fmt=shape, color=colour, capsize=3, label=name
        )
    for axes, teacher in ((left, validated), (right, tested)):
        if teacher is not None:
            axes.axhline(teacher, color='0.4', linewidth=1, label='teacher')
        axes.grid(alpha=0.3)
    left.set(
        xlabel=f'seconds{whose} in training steps', ylabel=_plain(metric), title='validation set'
    )
    right.set(xlabel=f'seconds{whose} a run', ylabel=_plain(metric), title='test set, mean ± sd')
    right.legend(loc='center left', bbox_to_anchor=(1.0, 0.5))
    _save(figure, work_dir / NAME)


def draw_rows(
    rows: Sequence[Mapping[str, Any]], metric: str, tested: float | None, stem: Path
) -> None:
    """Draw every row's test and what a run took, the best on top, into a png and an svg.

    Args:
        rows: As the table has them.
        metric: That is compared.
        tested: The teacher's on the test set.
        stem: The files without their endings.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(8, 1.4 + 0.24 * len(rows)), layout='constrained')
    tests, costs = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    _, spent, whose = _clock(rows)
    ordered = in_order(rows, metric)[::-1]
    for place, row in enumerate(ordered):
        tests.errorbar(row['mean'], place, xerr=row['sd'], fmt='o', color=_verdict(row), capsize=3)
        costs.barh(place, row[spent], color='0.75')
        if row['method'] == ALONE:
            tests.axvline(row['mean'], color='0.4', linewidth=1, linestyle='--')
    if tested is not None:
        tests.axvline(tested, color='0.4', linewidth=1)
        above = tests.get_xaxis_transform()
        tests.text(tested, 1.01, 'teacher', transform=above, ha='center', color='0.4')
    tests.set_yticks(range(len(rows)), [_plain(row['method']) for row in ordered])
    tests.set(xlabel=_plain(f'{metric}, test, mean ± sd'))
    tests.margins(y=0.02)
    costs.set(xlabel=f'seconds a run\n{whose.strip()}')
    for axes in (tests, costs):
        axes.grid(axis='x', alpha=0.3)
    told = {GAINS: 'better than alone', LOSES: 'worse', WITHIN: 'within the spread'}
    if UNJUDGED in map(_verdict, rows):
        told[UNJUDGED] = f'not judged: fewer than {ENOUGH} seeds'
    dots = [Line2D([], [], marker='o', linestyle='', color=colour) for colour in told]
    figure.legend(dots, told.values(), loc='outside upper center', ncols=len(told), frameon=False)
    _save(figure, stem)


def in_order(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """Return the rows, the best first.

    >>> rows = [dict(method='a', mean=1.), dict(method='b', mean=2.)]
    >>> [row['method'] for row in in_order(rows, 'mIoU')]
    ['b', 'a']
    """
    return sorted(rows, key=itemgetter('mean'), reverse=not less_is_better(metric))


def _verdict(row: Mapping[str, Any]) -> str:
    """Return the colour that says whether a row is ahead of the student alone."""
    gain = row['to_alone']
    if row['method'] == ALONE:
        return 'black'
    if gain is None or gain['exceeds'] is None:
        return UNJUDGED
    if not gain['exceeds']:
        return WITHIN
    return GAINS if gain['mean'] > 0 else LOSES


def _clock(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """Return the keys of what a step and a run took, and whose seconds they are."""
    if all_on_gpu(rows):
        return 'step_ms', 'seconds', ''
    return 'step_processor_ms', 'processor_seconds', ' of the processor'


def _save(figure: Any, stem: Path) -> None:
    for kind in FORMATS:
        content = BytesIO()
        figure.savefig(content, dpi=120, format=kind, bbox_inches='tight')
        write_atomically(content.getvalue(), stem.with_name(f'{stem.name}.{kind}'))


def _draw_curves(axes: Any, runs: Sequence[Curve], style: dict[str, Any]) -> None:
    for run in runs if len(runs) > 1 else []:
        if run:
            axes.plot(*zip(*run, strict=True), alpha=0.35, linewidth=0.8, **style)
    mean = mean_curve(runs)
    if mean:
        axes.plot(*zip(*mean, strict=True), linewidth=2, **style)


def _plain(label: str) -> str:
    """Return a text that matplotlib does not take for mathematics, nor leaves out of a legend."""
    said = text(label).replace('$', r'\$')
    return f' {said}' if said.startswith('_') else said
