"""The end of a teacher: frozen, and a function of what it is given, which may be a student's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmkd.distiller.members.teacher import Teacher
from mmkd.distiller.taps.ending import Link, find_links, run_links
from mmkd.losses.functional import no_autocast
from mmkd.structures.batch import Batch
from mmkd.structures.trace import Trace


@dataclass(frozen=True, eq=False)
class Head:
    """The modules that lead from one tap of a frozen teacher to another.

    They run in eval mode, without its noises, and of a teacher of half precision in float32: the
    student's gradient passes them, and small ones are 0 in float16, where no loss is scaled for
    them. It stays in none of their weights; they are no modules of what calls them.

    Args:
        run: The teacher at work.
        links: The modules, in their order.
    """

    run: Teacher
    links: tuple[Link, ...]

    def __deepcopy__(self, memo: dict) -> 'Head':
        """Return itself: copies of a Distiller learn from the same teachers."""
        return self

    @property
    def modules(self) -> list[str]:
        """Paths of the modules, in their order."""
        return [link.path for link in self.links]

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the teacher makes of a tensor in place of its own.

        Args:
            x: Of the channels that the teacher's tensor has.
        """
        dtype = torch.promote_types(self.run.dtype, torch.float32)
        with no_autocast(x):  # the student's
            return run_links(self.run.model, self.links, x.to(dtype))


@torch.no_grad()
def cut_heads(run: Any, taps: Sequence[tuple[str, str]], batch: Batch) -> list[Head]:
    """Return the ends of a teacher between pairs of its taps.

    Each is tried: of the teacher's own tensor it must make the teacher's own.

    Args:
        run: The teacher at work.
        taps: Names of the taps that each begins at and leads to.
        batch: Images that the teacher is run on.

    Raises:
        ValueError: It is no live teacher, or is compiled; something else than modules, one after
            the other, lies between the taps: names the nearest tap from which it can be cut.
    """
    _check_teacher(run)
    found, seen = run.trace(batch)
    return [_cut(run, start, end, found, seen) for start, end in taps]


def _cut(run: Teacher, start: str, end: str, found: Trace, seen: dict[str, Any]) -> Head:
    first, last = seen[start], seen[end]
    _check_tensors(run, {start: first, end: last})
    search = find_links(found, first, last)
    paths = {name: run.taps.paths[name].text for name in (start, end)}
    between = f'{run.where}: between {paths[start]!r} and {paths[end]!r}'
    if search.links is None:
        near = f'. The nearest place is {search.nearest!r}' if search.nearest else ''
        mend = search.nearest or 'auto:feature'
        raise ValueError(
            f'{between} lies more than modules one after the other, each reading one tensor '
            '(maps are joined, resized or added there), so the head cannot be cut at '
            f'{start!r}{near}. Mend: taps=dict({start}={mend!r}) of this teacher'
        )
    head = Head(run, search.links)
    made = head(first).to(last.dtype)
    if made.shape != last.shape or not torch.allclose(made, last, *_tolerance(made.dtype)):
        raise ValueError(
            f"{between} the modules {head.modules} do not make the teacher's own tensor of its "
            'own: a function changes something between them. Mend: another tap, such as '
            "'auto:feature'"
        )
    return head


def _tolerance(dtype: torch.dtype) -> tuple[float, float]:
    """Return how far two runs of the same modules may lie apart, relative and at all."""
    part = torch.finfo(dtype).eps ** 0.75
    return part, part


def _check_teacher(run: Any) -> None:
    if not isinstance(run, Teacher):
        if run is None:
            what = 'the teacher is made of others, which have heads each of its own'
        elif run.role == 'student':
            what = f'{run.where} is a student, whose weights move'
        else:
            what = f'{run.where} is stored, and no network'
        raise ValueError(
            f'{what}, so there is no head that a student could pass. Mend: a live teacher, '
            "teacher=dict(cfg=…, checkpoint='….pth')"
        )
    if run.compile:
        raise ValueError(
            f'{run.where} is compiled as one function, so its head does not run alone. Mend: leave '
            'compile out, or teacher_head'
        )


def _check_tensors(run: Teacher, seen: dict[str, Any]) -> None:
    for name, one in seen.items():
        if not isinstance(one, Tensor):
            raise ValueError(
                f'tap {name!r} of {run.where} is a list of {len(one)} tensors, one a call, and a '
                f"head leads from one to one. Mend: '{run.taps.paths[name].module}#0'"
            )
