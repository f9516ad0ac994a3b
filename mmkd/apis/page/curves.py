"""What changed over a run's iterations, read from the scalars that mmengine writes."""

import json
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from mmkd.apis.results import TIME, is_finite

Curve = list[tuple[float, float]]  # (iteration, value), by iteration
SPENT = ('time', 'data_time', 'memory', 'iter', 'step', 'epoch', 'base_lr')


def read_curves(folder: Path, finite: bool = True) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Return the losses of the training and the metrics of the validations: name -> curve.

    A run that was resumed or begun anew has several files: from the first iteration of a later one
    on, the earlier ones do not count. A line that was cut short by a kill, and values that are no
    finite numbers, are left out.

    Args:
        folder: The work dir of one run.
        finite: Whether values that are no finite numbers are left out.
    """
    losses: dict[str, dict[float, float]] = {}
    metrics: dict[str, dict[float, float]] = {}
    files = [
        file
        for file in folder.glob('*/vis_data/scalars.json')
        if TIME.fullmatch(file.parent.parent.name)
    ]
    for file in sorted(files):
        last = None  # iteration of training in this file
        for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
            step, values = _read_line(line)
            if step is None:
                continue
            trained = _is_of_training(values)
            if trained:
                if last is None:
                    _drop_from(step, losses, metrics)
                last = step
            elif last is not None:
                # mmengine's LoggerHook may say the epoch, which is 0 in a run by iterations
                step = max(step, last)
            _add(values, step, trained, finite, losses if trained else metrics)
    return _as_curves(losses), _as_curves(metrics)


def _read_line(text: str) -> tuple[float | None, dict[str, Any]]:
    """Return the step of a line and what it says; None of a line that tells of none."""
    try:
        line = json.loads(text)
    except ValueError:
        return None, {}
    step = line.get('step', line.get('iter')) if isinstance(line, dict) else None
    return (step, line) if is_finite(step) else (None, {})


def _is_of_training(values: Mapping[str, Any]) -> bool:
    """Return whether a line is of the training: a validation may have a metric called a loss.

    >>> _is_of_training(dict(loss=0.5, lr=0.1)), _is_of_training(dict(mIoU=40.0, val_loss=0.5))
    (True, False)
    """
    return any(key in ('loss', 'lr') or key.endswith('.lr') for key in values)


def _drop_from(step: float, *found: dict[str, dict[float, float]]) -> None:
    for values in (values for curves in found for values in curves.values()):
        for later in [known for known in values if known >= step]:
            del values[later]


def _add(values: dict[str, Any], step: float, trained: bool, finite: bool, found: dict) -> None:
    for key, value in values.items():
        known = is_finite(value) or (not finite and isinstance(value, float))
        if key not in SPENT and known and (not trained or 'loss' in key):
            found.setdefault(key, {})[step] = value


def _as_curves(found: Mapping[str, Mapping[float, float]]) -> dict[str, Curve]:
    return {name: sorted(values.items()) for name, values in found.items() if values}


def mean_curve(curves: Iterable[Curve]) -> Curve:
    """Return the mean over runs, at the iterations that all of them have.

    >>> mean_curve([[(1, 2.0), (2, 4.0)], [(2, 6.0), (3, 1.0)]])
    [(2, 5.0)]
    """
    values = [dict(curve) for curve in curves]
    shared = set.intersection(*map(set, values)) if values else set()
    return [(step, fmean(map(itemgetter(step), values))) for step in sorted(shared)]
