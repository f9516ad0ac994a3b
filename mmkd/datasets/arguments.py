"""Arguments that a data set here leaves to mmengine's BaseDataset; others are typing mistakes."""

from collections.abc import Iterable, Mapping
from typing import Any

from mmkd.utils.checks import check_keys

INHERITED = (
    'pipeline',
    'metainfo',
    'indices',
    'test_mode',
    'lazy_init',
    'serialize_data',
    'max_refetch',
)


def check_arguments(kwargs: Mapping[str, Any], own: Iterable[str], name: str) -> None:
    """Refuse arguments that neither a data set nor mmengine's BaseDataset takes.

    >>> check_arguments(dict(pipeline=[]), ('size',), 'DigitScenes')

    Args:
        kwargs: Given besides the data set's own.
        own: Names of its own arguments, for the nearest match.
        name: How errors call the data set.

    Raises:
        TypeError: Unknown arguments, with the nearest match.
    """
    check_keys(kwargs, (*own, *INHERITED), name)
