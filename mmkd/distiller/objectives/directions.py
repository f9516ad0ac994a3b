"""Which way lists of maps run: stages of two backbones that are compared one by one."""

from collections.abc import Mapping
from itertools import combinations
from math import prod
from typing import Any

from torch import Tensor

from mmkd.distiller.objectives.references import follow
from mmkd.structures.record import Record

Lists = tuple[str, str]  # the modules, student's and teacher's, of whose lists maps are compared
Compared = tuple[str, int, int]  # objective, and the places of the student's map and its teacher's


def check_directions(objectives: Mapping[str, Any], runs: Mapping[str, Any], seen: Record) -> None:
    """Refuse objectives that compare two lists of maps of which one runs the other way.

    A connector and a resize would let any two maps fit. Lists of which one has equal sizes are left
    alone, and so are maps of several modules: a map of classes is as large as it is.

    Args:
        objectives: Name -> objective.
        runs: Name -> member at work.
        seen: What the taps saw.

    Raises:
        ValueError: There are such objectives.
    """
    lists: dict[Lists, list[Compared]] = {}
    for name, objective in objectives.items():
        found = _compared(objective, runs, seen)
        if found is not None:
            modules, own, other = found
            lists.setdefault(modules, []).append((name, own, other))
    for (student, teacher), compared in lists.items():
        for (one, own, other), (next_one, next_own, next_other) in combinations(compared, 2):
            if (own - next_own) * (other - next_other) < 0:
                raise ValueError(
                    f'objectives {one!r} and {next_one!r} compare maps of {student} with {own} and '
                    f'{next_own} places with maps of {teacher} with {other} and {next_other}: one '
                    'list runs from shallow to deep, the other from deep to shallow. Mend: taps of '
                    "one of them the other way round, such as teacher=dict(taps=dict(stage1='auto:"
                    "stages[-1]', stage2='auto:stages[-2]', …))"
                )


def _compared(
    objective: Any, runs: Mapping[str, Any], seen: Record
) -> tuple[Lists, int, int] | None:
    """Return of which modules an objective compares one map each, and their places."""
    reads = objective.reads
    if not {'student', 'teacher'} <= set(reads.members):
        return None
    both = [reads['student'], reads['teacher']]
    if not all(isinstance(one, str) and one.partition('.')[0] in runs for one in both):
        return None
    values = [follow(one, seen) for one in both]
    if not all(isinstance(one, Tensor) and one.dim() > 3 for one in values):
        return None
    student, teacher = (_module(one, runs) for one in both)
    own, other = (prod(one.shape[2:]) for one in values)
    return (student, teacher), own, other


def _module(reference: str, runs: Mapping[str, Any]) -> str:
    member, tap = reference.split('.', 1)
    return f'{member}.{runs[member].taps.paths[tap].module}'
