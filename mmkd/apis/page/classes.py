"""What each class has gained: means over the runs of a row, and differences to the student alone.

Values come from ``per_class.json``, which a test writes beside its numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

from mmkd.apis.results import Row
from mmkd.utils.averages import mean_metrics


@dataclass(frozen=True)
class Cell:
    """One number of the table: a value, and how far it is from the student alone.

    Args:
        value: Mean over runs, None where a run has none.
        gain: Difference to the student alone, None of itself and where there is none.
        share: The gain as a part of the largest one, from -1 to 1: the length of its bar.
    """

    value: float | None
    gain: float | None = None
    share: float = 0.0


@dataclass(frozen=True)
class PerClass:
    """A table of classes.

    Args:
        metric: What is told of each class.
        labels: Rows of the report that have it; they are columns here.
        classes: Name and a cell for each label.
        missing: Rows of the report without such values.
        baseline: The student alone, if it has such values.
    """

    metric: str
    labels: list[str]
    classes: list[tuple[str, list[Cell]]]
    missing: list[str]
    baseline: str | None


def per_class(rows: Sequence[Row], baseline: str | None = None) -> list[PerClass]:
    """Return a table for each metric that any row has by class.

    Args:
        rows: Of the report.
        baseline: Label of the student alone.
    """
    names = dict.fromkeys(metric for row in rows for metric in row.runs[0].per_class)
    return [_table(metric, rows, baseline) for metric in names]


def _table(metric: str, rows: Sequence[Row], baseline: str | None) -> PerClass:
    means = {row.label: _means(row, metric) for row in rows}
    means = {label: own for label, own in means.items() if own}
    classes = list(dict.fromkeys(name for own in means.values() for name in own))
    alone = means.get(baseline or '', {})
    gains = {
        (label, name): own[name] - alone[name]
        for label, own in means.items()
        if label != baseline
        for name in alone.keys() & own.keys()
    }
    largest = max(map(abs, gains.values()), default=0.0) or 1.0

    def cell(label: str, name: str) -> Cell:
        gain = gains.get((label, name))
        return Cell(means[label].get(name), gain, (gain or 0.0) / largest)

    lines = [(name, list(map(cell, means, repeat(name)))) for name in classes]
    missing = [row.label for row in rows if row.label not in means]
    return PerClass(metric, list(means), lines, missing, baseline if baseline in means else None)


def _means(row: Row, metric: str) -> dict[str, float]:
    """Return class -> mean over the runs, of classes that every run has."""
    found = [run.per_class.get(metric, {}) for run in row.runs]
    common = set.intersection(*map(set, found))
    first = {name: value for name, value in found[0].items() if name in common}
    return mean_metrics([first, *found[1:]])
