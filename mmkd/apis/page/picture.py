"""The report as one picture: the metric of each run, and its curve on the validation set."""

from collections.abc import Sequence
from io import BytesIO

from mmkd.apis.page.build import read_row_curves, validated
from mmkd.apis.page.curves import mean_curve
from mmkd.apis.report import make_table, text
from mmkd.apis.results import Row

DASHES = ('-', '--', ':', '-.')
SHAPES = 'os^Dx+'


def make_picture(rows: Sequence[Row], metrics: Sequence[str] = ()) -> bytes:
    """Return a PNG of two charts; of one where no run was validated while it trained.

    Args:
        rows: In the order of the table.
        metrics: The first one is drawn; none: the main one.

    Raises:
        KeyError: A metric that is not there.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing of the process's own is changed

    metric = make_table(rows, metrics).metric
    curves = [read_row_curves(row) for row in rows]
    name = validated(curves, metric)
    figure = Figure(figsize=(10 if name else 5, 0.5 * len(rows) + 3), layout='constrained')
    axes = figure.subplots(1, 2 if name else 1, squeeze=False)[0]
    for index, row in enumerate(rows):
        values = row.values(metric)
        colour, shape = f'C{index}', SHAPES[index % len(SHAPES)]
        axes[0].plot(values, [-index] * len(values), shape, color=colour)
        axes[0].plot([sum(values) / len(values)], [-index], '|', color=colour, markersize=20)
    axes[0].set_yticks([-index for index in range(len(rows))], [_plain(row.label) for row in rows])
    axes[0].set(xlabel=_plain(metric), ylim=(0.6 - len(rows), 0.6), title='tests, a point a run')
    axes[0].grid(axis='x', alpha=0.3)
    for index, row_curves in enumerate(curves if name else []):
        style = dict(color=f'C{index}', linestyle=DASHES[index % len(DASHES)])
        runs = row_curves.metrics.get(name or '', [])
        for run in runs if len(runs) > 1 else []:
            axes[1].plot(*zip(*run, strict=True), alpha=0.35, linewidth=0.8, **style)
        mean = mean_curve(runs)
        if mean:
            label = _plain(row_curves.label)
            if label.startswith('_'):  # matplotlib leaves those out of a legend
                label = f' {label}'
            axes[1].plot(*zip(*mean, strict=True), linewidth=2, label=label, **style)
    if name:
        axes[1].set(xlabel='iteration', ylabel=_plain(name), title='validation, mean thick')
        axes[1].grid(alpha=0.3)
        axes[1].legend()
    content = BytesIO()
    figure.savefig(content, dpi=120, format='png')
    return content.getvalue()


def _plain(label: str) -> str:
    """Return a text that matplotlib does not take for mathematics."""
    return text(label).replace('$', r'\$')
