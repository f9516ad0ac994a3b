"""The factor of a method's weights, chosen on the validation set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkd.apis.compare.records import read_note
from mmkd.apis.report import less_is_better, usual_metric
from mmkd.utils.checks import nearest

FILE = 'tune.json'
# of a data set, what may differ although its images are the same
BESIDE = ('pipeline', 'test_mode', 'lazy_init', 'serialize_data')


def check_validation(cfg: Config) -> None:
    """Refuse to tune where there is no validation set, or where it is the test set.

    Raises:
        ValueError: Names both, and the mend.
    """
    if cfg.get('val_dataloader') is None:
        raise ValueError(
            f'{cfg.filename} has no val_dataloader, and --tune never looks at the test set. Mend: '
            'val_dataloader, val_cfg and val_evaluator; or leave --tune out'
        )
    if is_test_set(cfg):
        kind = cfg.test_dataloader.dataset.get('type')
        raise ValueError(
            f'val_dataloader.dataset and test_dataloader.dataset of {cfg.filename} are the same '
            f'{kind}, so weights would be tuned on the test set. Mend: val_dataloader.dataset of '
            'images of its own, such as a part of the training set; or leave --tune out'
        )


def is_test_set(cfg: Config) -> bool:
    """Return whether the validation set of a config is its test set."""
    if cfg.get('val_dataloader') is None:
        return False
    datasets = [cfg[key].get('dataset') for key in ('val_dataloader', 'test_dataloader')]
    val, test = (images_of(dataset) for dataset in datasets)
    return val == test


def images_of(dataset: Any, beside: Sequence[str] = BESIDE) -> Any:
    """Return what decides on the images of a data set, and of those within.

    Args:
        dataset: Its config.
        beside: Keys that do not.

    >>> images_of(dict(type='CamVid', pipeline=[], datasets=[dict(split='a', test_mode=True)]))
    {'type': 'CamVid', 'datasets': [{'split': 'a'}]}
    """
    if isinstance(dataset, list | tuple):
        return [images_of(one, beside) for one in dataset]
    if not isinstance(dataset, Mapping):
        return dataset
    return {key: images_of(value, beside) for key, value in dataset.items() if key not in beside}


def main_metric_of(metrics: Mapping[str, Any], asked: str | None = None) -> str:
    """Return the metric that methods are compared by: the one that was asked for, or a usual one.

    Raises:
        KeyError: There is none; names the nearest one.
    """
    if asked is not None:
        if asked not in metrics:
            raise KeyError(
                f'--metric {asked!r} is none of {", ".join(sorted(metrics))}'
                f'{nearest(asked, metrics)}'
            )
        return asked
    metric = usual_metric(metrics)
    if metric is None:
        raise KeyError(
            f'no usual metric is there. Mend: --metric, one of {", ".join(sorted(metrics))}'
        )
    return metric


def validation_of(record: Mapping[str, Any], metric: str) -> float | None:
    """Return a run's metric on the validation set, of the weights that are tested."""
    return record['validation'][record['tested']].get(metric)


def choose(values: Mapping[float, float | None], metric: str) -> float | None:
    """Return the factor of the best value; of equal ones the nearest to 1; None without a value.

    >>> choose({0.3: 41.0, 1.0: 42.0, 3.0: None}, 'mIoU'), choose({0.3: 0.1, 1.0: 0.2}, 'abs_rel')
    (1.0, 0.3)
    """
    sign = -1 if less_is_better(metric) else 1
    known = [(sign * value, -abs(factor - 1), factor) for factor, value in values.items()
             if value is not None]  # fmt: skip
    return max(known)[2] if known else None


def read_tuned(folder: Path, settings: str, factors: Sequence[float]) -> dict[str, Any] | None:
    """Return what was tuned before by these settings, where each factor has a value."""
    note = read_note(folder / FILE)
    if note is None or note['settings'] != settings:
        return None
    values, asked = note['values'], list(map(name_of, factors))
    died = any(values.get(name) is None for name in asked)
    return None if died or name_of(note['factor']) not in asked else note


def name_of(factor: float) -> str:
    """Return a factor as a record names it.

    >>> name_of(3.0), name_of(0.3)
    ('3', '0.3')
    """
    return f'{factor:g}'
