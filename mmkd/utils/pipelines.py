"""Pipelines of data sets inside of data sets."""

from typing import Any

INNER = ('dataset', 'datasets')  # where a wrapper has what it wraps


def find_pipeline(dataset: Any) -> Any:
    """Return the pipeline of a data set's config, or of the first one inside it that has one.

    >>> find_pipeline(dict(type='RepeatDataset', dataset=dict(type='A', pipeline=[1])))
    [1]
    """
    if isinstance(dataset, list | tuple):
        return next(filter(None, map(find_pipeline, dataset)), None)
    if not isinstance(dataset, dict):
        return None
    return dataset.get('pipeline') or find_pipeline(
        dataset.get('dataset') or dataset.get('datasets')
    )


def without_pipeline(dataset: Any) -> Any:
    """Return the config of a data set whose samples come as they are, also where it is wrapped.

    >>> without_pipeline(dict(type='ConcatDataset', datasets=[dict(type='A', pipeline=[1])]))
    {'type': 'ConcatDataset', 'datasets': [{'type': 'A', 'pipeline': []}]}
    """
    if isinstance(dataset, list | tuple):
        return [without_pipeline(one) for one in dataset]
    if not isinstance(dataset, dict):
        return dataset  # built already
    inner = {key: without_pipeline(dataset[key]) for key in INNER if key in dataset}
    return {**dataset, **(inner or dict(pipeline=[]))}
