"""Class maps: what a class of the teacher is among the student's, so that other classes teach."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.distiller.objectives.class_logits import LabelSet, told
from mmkd.losses.functional import widen
from mmkd.utils.checks import nearest

_FORMS = (
    "a dictionary of the teacher's classes to the student's (many to one; None: without "
    "counterpart), a list with one entry for each of the teacher's classes, or 'names'"
)


def merge_classes(logits: Tensor, index: Tensor, number: int) -> Tensor:
    r"""Return logits whose softmax has the sums of probabilities of groups of classes.

    .. math:: z'_g = \ln \sum_{c \in g} e^{z_c}, \qquad
        \mathrm{softmax}(z')_g = \frac{\sum_{c \in g} p_c}{\sum_{c \text{ in a group}} p_c}

    Sums are taken in log space, in float32 or wider, without a loop over classes. A class of no
    group is left out, and what remains is renormalised: the result is the distribution under the
    condition that the class is one of a group. A group of one class has its logit bit for bit.

    Args:
        logits: (N, C, \*S).
        index: Group of each class (C,), below 0 for none; every group has a class.
        number: How many groups there are.

    Returns:
        (N, number, \*S).

    >>> p = torch.tensor([[.1, .2, .3, .4]])
    >>> merge_classes(p.log(), torch.tensor([1, 0, 1, -1]), 2).exp()
    tensor([[0.2000, 0.4000]])
    """
    kept = (index >= 0).nonzero().flatten()
    return _merge(logits, kept, index[kept], number)


def _merge(logits: Tensor, kept: Tensor, group: Tensor, number: int) -> Tensor:
    (x,) = widen(logits.index_select(1, kept))
    shape = (len(x), number, *x.shape[2:])
    places = group.view(-1, *[1] * (x.dim() - 2)).expand_as(x)
    top = x.new_full(shape, -torch.inf).scatter_reduce(1, places, x.detach(), 'amax')
    # of a group of nothing but −∞, or with +∞, as logsumexp has it
    top = top.masked_fill(~top.isfinite(), 0)
    above = (x - top.index_select(1, group)).exp()
    return top + x.new_zeros(shape).index_add(1, group, above).log()


class ClassMap(nn.Module):
    """What each class of the teacher is among the student's; see :func:`merge_classes`.

    The teacher's class logits become those of the student's classes. What it knows besides is left
    out, and the rest renormalised: between classes of which the student knows nothing, there is
    nothing to learn. A class of the student that no class of the teacher becomes is left out of
    both sides: of it the teacher says nothing, neither that it is there nor that it is not. So both
    are distributions over the same classes, those that both know.

    Args:
        called: How errors call the objective.
        given: Teacher's class → student's class, each by number or name; a list of the latter;
            ``'names'``: equal names. None or −1: a class without counterpart, as are those that a
            dictionary does not name.

    Raises:
        TypeError: It is none of these.
    """

    index: Tensor
    kept: Tensor
    chosen: Tensor

    def __init__(self, called: str, given: Any) -> None:
        super().__init__()
        pairs = given.items() if isinstance(given, Mapping) else enumerate(_listed(called, given))
        self.called, self.pairs = f'{called}: class_map', list(pairs)
        self.by_names, self.is_list = given == 'names', not isinstance(given, Mapping)
        for teacher, student in self.pairs:
            if not (_is_class(teacher) and (student is None or _is_class(student))):
                raise TypeError(
                    f'{self.called}: {teacher!r}: {student!r} is no class of the teacher and one '
                    f'of the student, by number or name. Mend: {_FORMS}'
                )
        self.number = 0  # of classes that are compared; 0: not resolved
        self.whole = True  # whether these are all of the student's
        for name in ('index', 'kept', 'chosen'):  # no part of a checkpoint: the config says them
            self.register_buffer(name, torch.zeros(0, dtype=torch.long), persistent=False)

    def resolve(self, teacher: LabelSet, student: LabelSet) -> str:
        """Look at the classes of both sides; return what the map does, in words.

        Args:
            teacher: Its classes, as many as its logits have channels.
            student: The same of the student.

        Raises:
            KeyError: A name that is none of theirs, with its nearest match.
            ValueError: A number that is no class, a class that is named twice, names that are not
                known, fewer than two classes that both know.
        """
        becomes = self._becomes(teacher, student)
        taught = sorted({one for one in becomes if one >= 0})
        if len(taught) < 2:
            self._fail(
                ValueError,
                f'{len(taught)} of the classes are known to both, and a softmax over fewer than '
                'two teaches nothing',
                teacher,
                student,
            )
        place = {one: i for i, one in enumerate(taught)}
        device = self.index.device
        # in the order of the student's classes, so that of one to one the teacher's are just taken
        both = sorted((place[one], i) for i, one in enumerate(becomes) if one >= 0)
        self.index, self.kept = torch.tensor(both, device=device).unbind(1)
        self.chosen = torch.tensor(taught, device=device)
        self.number, self.whole = len(taught), len(taught) == student.classes
        left = [i for i in range(student.classes or 0) if i not in place]
        alone = ', '.join(student.names[i] if student.names else str(i) for i in left)
        return (
            f'class_map: {len(self.kept)} of {teacher.classes} classes of the teacher become '
            f'{self.number} of {student.classes} of the student'
            + f'; left out of both, since nobody teaches them: {alone}'
            * bool(left)
        )

    def teach(self, logits: Tensor) -> Tensor:
        """Return the teacher's logits (N, C, …) as those of the classes that both know."""
        if len(self.kept) > self.number:
            return _merge(logits, self.kept, self.index, self.number)
        return logits.index_select(1, self.kept)  # of one to one nothing is summed

    def learn(self, logits: Tensor) -> Tensor:
        """Return the student's logits (N, C, …) of the classes that both know."""
        return logits if self.whole else logits.index_select(1, self.chosen)

    def _becomes(self, teacher: LabelSet, student: LabelSet) -> list[int]:
        """Return the student's class of each of the teacher's, −1 for none."""
        if self.by_names:
            return self._by_names(teacher, student)
        if self.is_list and len(self.pairs) != teacher.classes:
            text = f'it lists {len(self.pairs)} classes, but the teacher knows {teacher.classes}'
            self._fail(ValueError, text, teacher, student)
        becomes: dict[int, int] = {}
        for one, other in self.pairs:
            source = self._number(one, teacher, 'teacher', teacher, student)
            if source in becomes:
                text = f'the class {one!r} of the teacher is named twice'
                self._fail(ValueError, text, teacher, student)
            none = other is None or other == -1
            becomes[source] = (
                -1 if none else self._number(other, student, 'student', teacher, student)
            )
        return [becomes.get(i, -1) for i in range(teacher.classes or 0)]

    def _by_names(self, teacher: LabelSet, student: LabelSet) -> list[int]:
        for side, labels in (('teacher', teacher), ('student', student)):
            if not labels.names:
                self._fail(ValueError, _unnamed(side), teacher, student)
        if len(set(student.names)) < len(student.names):
            text = 'two classes of the student have one name'
            self._fail(ValueError, text, teacher, student)
        place = {name: i for i, name in enumerate(student.names)}
        return [place.get(name, -1) for name in teacher.names]

    def _number(
        self, one: Any, labels: LabelSet, side: str, teacher: LabelSet, student: LabelSet
    ) -> int:
        """Return the number of a class that is given by number or name."""
        if isinstance(one, int):
            if not 0 <= one < (labels.classes or 0):
                text = f'{one} is no class of the {side}, which knows {labels.classes}'
                self._fail(ValueError, text, teacher, student)
            return one
        if not labels.names:
            self._fail(ValueError, _unnamed(side), teacher, student)
        if one not in labels.names:
            text = f'{one!r} is no class of the {side}{nearest(one, labels.names)}'
            self._fail(KeyError, text, teacher, student)
        return labels.names.index(one)

    def _fail(
        self, error: Callable[[str], Exception], text: str, teacher: LabelSet, student: LabelSet
    ) -> None:
        raise error(
            f'{self.called}: {text}. Teacher: {told(teacher)}; student: {told(student)}. Mend: '
            f'{_FORMS}'
        )


def _listed(called: str, given: Any) -> list:
    if given == 'names':
        return []
    if not isinstance(given, list | tuple) or not given:
        raise TypeError(f'{called}: class_map must be {_FORMS}, got {given!r:.80}')
    return list(given)


def _is_class(one: Any) -> bool:
    return isinstance(one, int | str) and not isinstance(one, bool)


def _unnamed(side: str) -> str:
    return (
        f'the names of the classes of the {side} are not known: no data set of a config says them '
        f"(give them to the member: {side}=dict(…, classes='CityscapesDataset'), or a list)"
    )
