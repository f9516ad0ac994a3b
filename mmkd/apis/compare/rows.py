"""What the records of a comparison say of each row, in numbers."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkd.apis.report import gap_closed, less_is_better

ENOUGH = 3  # pairs of seeds from which a difference is judged


def all_on_gpu(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether seconds are those of the clock, as on a GPU, and not of the processor.

    >>> all_on_gpu([dict(on_gpu=True), dict(on_gpu=False)])
    False
    """
    return all(row['on_gpu'] for row in rows)


@dataclass(frozen=True)
class Difference:
    """How much better one row is than another, seed by seed.

    Args:
        values: Gain of each seed that both rows have; above 0 is better, whatever the metric.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean gain."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation of the gains; None of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def exceeds(self) -> bool | None:
        """Whether the mean is more than two standard errors from 0; None of fewer than 3 seeds.

        >>> Difference((1.0, 2.0, 3.0)).exceeds, Difference((-1.0, 2.0, 3.0)).exceeds
        (True, False)
        """
        number = len(self.values)
        if number < ENOUGH:
            return None
        return abs(self.mean) > 2 * statistics.stdev(self.values) / math.sqrt(number)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, to be written down."""
        return dict(
            values=list(self.values), mean=self.mean, spread=self.spread, exceeds=self.exceeds
        )


def paired(
    values: Mapping[int, float], base: Mapping[int, float], metric: str
) -> Difference | None:
    """Return the gain of a row over another at the seeds of both; None where they share none.

    >>> paired({0: 41.0, 1: 43.0, 2: 9.0}, {0: 40.0, 1: 40.0}, 'mIoU').values
    (1.0, 3.0)
    >>> paired({0: 0.25}, {0: 0.5}, 'abs_rel').values
    (0.25,)
    """
    sign = -1 if less_is_better(metric) else 1
    seeds = [seed for seed in values if seed in base]
    return Difference(tuple(sign * (values[s] - base[s]) for s in seeds)) if seeds else None


def mean_of(records: Mapping[int, Mapping[str, Any]], key: str) -> float | None:
    """Return the mean of a number of every record; None where one lacks it."""
    values = [record.get(key) for record in records.values()]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def mean_shares(records: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean gradient share of every objective that each record has one of.

    >>> mean_shares({0: dict(gradient_shares=dict(kd=0.5, x=None)),
    ...              1: dict(gradient_shares=dict(kd=1.0, x=2.0))})
    {'kd': 0.75}
    """
    each = [record.get('gradient_shares') or {} for record in records.values()]
    means = {}
    for name in each[0] if each else ():
        values = [shares.get(name) for shares in each]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            means[name] = statistics.fmean(known)
    return means


def apart(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    split: str,
    of_pair: Sequence[str],
    known: str,
) -> list[str]:
    """Return the rows that were tested, or validated, on something else than the rows of the pair.

    What the pair is tested on is what most of its runs on record were, whatever its config says by
    now. A record without digests, an older one, says of the validation alone whether it was apart.

    Args:
        rows: Name -> its records.
        split: ``'test'`` or ``'val'``.
        of_pair: The rows whose config is that of the pair.
        known: The digest of the pair's config, for want of runs.

    >>> here, there = (dict(sets=dict(test=one)) for one in 'ab')
    >>> apart(dict(kd=[here, here], few=[here, there]), 'test', ['kd'], 'b')
    ['few']
    >>> apart(dict(few=[here]), 'test', [], 'b'), apart(dict(kd=[{}]), 'test', ['kd'], 'b')
    (['few'], [])
    """
    digests = {name: _digests(records, split) for name, records in rows.items()}
    found = Counter(one for name in of_pair for one in digests.get(name, ()))
    own = found.most_common(1)[0][0] if found else known
    said = [name for name, records in rows.items() if split == 'val' and _said_apart(records)]
    return [name for name in rows if {*digests[name]} - {own} or name in said]


def _digests(records: Sequence[Mapping[str, Any]], split: str) -> list[str]:
    return [record['sets'][split] for record in records if record.get('sets')]


def _said_apart(records: Sequence[Mapping[str, Any]]) -> bool:
    return any(record.get('validated_apart') for record in records)


def closed(
    values: Mapping[int, float], alone: Mapping[int, float], teacher: float | None, metric: str
) -> float | None:
    """Return which part of the gap to the teacher is closed, in per cent; None without a gap.

    It is that of the seeds of both rows, as :func:`paired` gains are.

    >>> closed({0: 48., 1: 9.}, {0: 44.}, 54., 'mIoU'), closed({0: 48.}, {0: 44.}, 40., 'mIoU')
    (40.0, None)
    """
    seeds = [seed for seed in values if seed in alone]
    if not seeds or teacher is None:
        return None
    own = statistics.fmean(values[seed] for seed in seeds)
    base = statistics.fmean(alone[seed] for seed in seeds)
    gap = (base - teacher) if less_is_better(metric) else (teacher - base)
    return gap_closed(own, base, teacher) if gap > 0 else None
