"""References: how an objective names what it reads, ``'<member>.<tap>'`` or ``'batch.<name>'``."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from mmkd.structures.batch import BATCH_READS
from mmkd.structures.record import Record
from mmkd.utils.checks import nearest


def resolve(reference: Any, known: Mapping[str, list[str]], where: str) -> Any:
    """Check a reference and expand a list or a glob into a list of references.

    >>> resolve('t*.logits', dict(t0=['logits'], t1=['logits'], student=['logits']), 'teachers')
    ['t0.logits', 't1.logits']

    Args:
        reference: ``'member.tap'``, ``'batch.name'``, a list of references or a glob of members.
        known: Member name -> names of the taps that it offers.
        where: How errors call it.

    Raises:
        KeyError: An unknown member, tap or part of the batch, with the nearest match.
        ValueError: Not a reference; a list that stacks anything but taps.
    """
    if isinstance(reference, list | tuple):
        flat: list[str] = []
        for one in reference:
            found = resolve(one, known, where)
            flat += found if isinstance(found, list) else [found]
        if not flat or any(map(is_of_batch, flat)):
            raise ValueError(
                f"{where}: a list stacks taps of members ('<member>.<tap>'), got {reference!r}"
            )
        return flat
    member, dot, tap = str(reference).partition('.')
    if not dot or not isinstance(reference, str):
        raise ValueError(
            f"{where}: a reference is '<member>.<tap>' or 'batch.<name>', got {reference!r}"
        )
    if member == 'batch':
        if tap not in BATCH_READS:
            raise KeyError(
                f'{where}: the batch offers {list(BATCH_READS)}, got '
                f'{tap!r}{nearest(tap, BATCH_READS)}'
            )
        return reference
    members = [m for m in known if fnmatchcase(m, member)]
    if not members:
        raise KeyError(
            f'{where}: {reference!r} names no member{nearest(member, known)} (members: '
            f'{sorted(known)})'
        )
    for name in members:
        if tap not in known[name]:
            raise KeyError(
                f'{where}: member {name!r} has no tap {tap!r}{nearest(tap, known[name])} (its '
                f"taps: {sorted(known[name])}). Mend: taps=dict({tap}='<module path>')"
            )
    return [f'{m}.{tap}' for m in members] if any(c in member for c in '*?[') else reference


def references(value: Any) -> list[str]:
    """Return every ``'member.tap'`` of a read, batch reads left out."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if not is_of_batch(v)]


def is_of_batch(reference: Any) -> bool:
    """Return whether a reference is one of the batch, and not of a tap.

    >>> is_of_batch('batch.labels'), is_of_batch('student.logits')
    (True, False)
    """
    return isinstance(reference, str) and reference.startswith('batch.')


def follow(reference: str, record: Record) -> Any:
    """Return what a tap saw, by ``'member.tap'``.

    >>> follow('student.logits', dict(student=dict(logits=1)))
    1
    """
    member, tap = reference.split('.', 1)
    return record[member][tap]
