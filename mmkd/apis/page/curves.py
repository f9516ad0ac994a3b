"""What changed over a run's iterations, read from the scalars that mmengine writes."""

import json
import math
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from mmkd.apis.results import TIME

Curve = list[tuple[float, float]]  # (iteration, value), by iteration
SPENT = ('time', 'data_time', 'memory', 'iter', 'step', 'epoch', 'base_lr')


def read_curves(folder: Path) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Return the losses of the training and the metrics of the validations: name -> curve.

    A resumed run has several files; where two tell of one iteration, the later one counts. A line
    that was cut short by a kill, and values that are no finite numbers, are left out.

    Args:
        folder: The work dir of one run.
    """
    losses: dict[str, dict[float, float]] = {}
    metrics: dict[str, dict[float, float]] = {}
    files = [
        file
        for file in folder.glob('*/vis_data/scalars.json')
        if TIME.fullmatch(file.parent.parent.name)
    ]
    for file in sorted(files):
        for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
            _read_line(line, losses, metrics)
    return _as_curves(losses), _as_curves(metrics)


def _read_line(text: str, losses: dict, metrics: dict) -> None:
    try:
        line = json.loads(text)
    except ValueError:
        return
    step = line.get('step', line.get('iter')) if isinstance(line, dict) else None
    if not _is_finite(step):
        return
    trained = any('loss' in key for key in line)
    for key, value in line.items():
        if key in SPENT or not _is_finite(value):
            continue
        if not trained:
            metrics.setdefault(key, {})[step] = value
        elif 'loss' in key:
            losses.setdefault(key, {})[step] = value


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_curves(found: Mapping[str, Mapping[float, float]]) -> dict[str, Curve]:
    return {name: sorted(values.items()) for name, values in found.items()}


def mean_curve(curves: Iterable[Curve]) -> Curve:
    """Return the mean over runs, at the iterations that all of them have.

    >>> mean_curve([[(1, 2.0), (2, 4.0)], [(2, 6.0), (3, 1.0)]])
    [(2, 5.0)]
    """
    values = [dict(curve) for curve in curves]
    shared = set.intersection(*map(set, values)) if values else set()
    return [(step, fmean(map(itemgetter(step), values))) for step in sorted(shared)]
