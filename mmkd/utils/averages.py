"""Means of results, as loops, tools and tables report them."""

import statistics
from collections.abc import Sequence
from operator import itemgetter


def mean_metrics(results: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of every metric over results that have the same ones.

    >>> mean_metrics([dict(mIoU=40.0, aAcc=90.0), dict(mIoU=42.0, aAcc=80.0)])
    {'mIoU': 41.0, 'aAcc': 85.0}
    """
    return {key: sum(map(itemgetter(key), results)) / len(results) for key in results[0]}


def spread(values: Sequence[float], places: int = 2) -> str:
    """Return mean ± sample standard deviation; the value alone where there is one.

    >>> spread([1., 2., 3.]), spread([.5], 3)
    ('2.00 ± 1.00', '0.500')
    """
    mean = f'{statistics.fmean(values):.{places}f}'
    return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.{places}f}'
