"""The plot of a comparison: quality over seconds."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any

from mmkd.apis.page.curves import Curve, mean_curve, read_curves
from mmkd.apis.page.picture import DASHES, SHAPES
from mmkd.apis.report import text
from mmkd.utils.atomic import write_atomically

NAME = 'compare'
FORMATS = ('png', 'svg')


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
    on_gpu = all(map(itemgetter('on_gpu'), rows))
    clock = 'step_ms' if on_gpu else 'step_processor_ms'
    spent = 'seconds' if on_gpu else 'processor_seconds'
    for index, row in enumerate(rows):
        colour, shape = f'C{index % 10}', SHAPES[index % len(SHAPES)]
        style = dict(color=colour, linestyle=DASHES[index % len(DASHES)])
        name = _plain(row['method'])
        if row[clock] is not None and not row.get('validated_apart'):
            _draw_curves(left, over_seconds(folders[row['method']], metric, row[clock]), style)
        right.errorbar(
            row[spent], row['mean'], yerr=row['sd'], fmt=shape, color=colour, capsize=3, label=name
        )
    for axes, teacher in ((left, validated), (right, tested)):
        if teacher is not None:
            axes.axhline(teacher, color='0.4', linewidth=1, label='teacher')
        axes.grid(alpha=0.3)
    whose = '' if on_gpu else ' of the processor'
    left.set(
        xlabel=f'seconds{whose} in training steps', ylabel=_plain(metric), title='validation set'
    )
    right.set(xlabel=f'seconds{whose} a run', ylabel=_plain(metric), title='test set, mean ± sd')
    right.legend(loc='center left', bbox_to_anchor=(1.0, 0.5))
    for kind in FORMATS:
        content = BytesIO()
        figure.savefig(content, dpi=120, format=kind)
        write_atomically(content.getvalue(), work_dir / f'{NAME}.{kind}')


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
