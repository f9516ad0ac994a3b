"""What a part of ``where=`` is: how much every position of a loss counts."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.checks import check_classes, shape_of
from mmkd.losses.functional import no_autocast
from mmkd.structures.batch import Batch, resize_labels
from mmkd.utils.checks import check_dict, check_keys

SIDES = ('student', 'teacher')


class Where(nn.Module):
    r"""How much every position counts: (batch, student, teacher) → (N, \*S), 0 or above.

    A part of your own is a class below this one, under ``@MODELS.register_module()``, with a method
    :meth:`weigh`; it says in the attributes what it needs. An objective's ``where=`` takes one part
    or a list of them, whose weights are multiplied and reach the loss as ``weight``. The loss
    divides by their sum, so that only their proportions matter.

    Args:
        reads: 'student' or 'teacher' -> ``'member.tap'`` that the part is given in place of what
            the loss compares: of a loss on features ``reads=dict(teacher='teacher.logits')``.

    Attributes:
        labels: Whether it needs ``batch.labels``.
        boxes: Whether it needs ``batch.boxes``.
        class_logits: Of which sides it needs the class logits: (), ('teacher',), ….
        skips_unlabelled: Whether it gives every position of an image without labels the weight 0.

    Raises:
        TypeError: ``reads`` is no dictionary, or names another side.

    Examples:
        >>> class Left(Where):
        ...     def weigh(self, batch, student, teacher):
        ...         weight = student.new_zeros(len(student), *student.shape[2:])
        ...         weight[..., :1] = 1
        ...         return weight
        >>> Left()(Batch(torch.zeros(1, 3, 4, 4)), torch.zeros(1, 5, 2, 2))
        tensor([[[1., 0.],
                 [1., 0.]]])
    """

    labels: bool = False
    boxes: bool = False
    class_logits: tuple[str, ...] = ()
    skips_unlabelled: bool = False

    def __init__(self, reads: Mapping[str, str] | None = None) -> None:
        super().__init__()
        name = f'reads of {type(self).__name__}'
        check_dict(name, reads, "reads=dict(teacher='teacher.logits')")
        check_keys(reads or {}, SIDES, name)
        self.reads = dict(reads or {})

    def extra_repr(self) -> str:
        """Say the options, as the doctor prints them."""
        own = {name: one for name, one in vars(self).items() if not name.startswith('_')}
        for name in ('training', 'skips_unlabelled'):
            own.pop(name, None)
        if not self.reads:
            own.pop('reads')
        return ', '.join(f'{name}={one!r}' for name, one in own.items())

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        r"""Return how much every position counts, (N, \*S) of any size.

        Args:
            batch: Images, labels and boxes.
            student: What the student says (N, C, \*S), detached.
            teacher: What the teacher says; None where the loss reads no single teacher.
        """
        raise NotImplementedError(
            f'{type(self).__name__} does not say how much a position counts. Mend: a method '
            'weigh(self, batch, student, teacher) that returns (N, *S)'
        )

    @torch.no_grad()
    def forward(self, batch: Batch, student: Tensor, teacher: Tensor | None = None) -> Tensor:
        r"""Return how much every position of the student's map counts, (N, \*S), no gradient.

        Args:
            batch: Images, labels and boxes.
            student: What the student says (N, C, \*S).
            teacher: What the teacher says (N, C, \*S).

        Raises:
            ValueError: The weight has other axes than the map.
        """
        student = student.detach()
        teacher = None if teacher is None else teacher.detach()
        with no_autocast(student):
            return at_size(self.weigh(batch, student, teacher), student, type(self).__name__)


def at_size(weight: Tensor, student: Tensor, name: str = 'weight') -> Tensor:
    r"""Bring a weight (N, \*S) to the size of a map (N, C, \*S): the mean over what a cell covers.

    Args:
        weight: Of every position.
        student: The map.
        name: How errors call the weight.

    Raises:
        ValueError: It has other axes.
        TypeError: It is no float tensor.

    >>> at_size(torch.tensor([[[1., 0., 1., 1.]]]), torch.zeros(1, 3, 1, 2))
    tensor([[[0.5000, 1.0000]]])
    """
    size = student.shape[2:]
    if not isinstance(weight, Tensor) or weight.dim() != student.dim() - 1:
        got = shape_of(weight) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(
            f'{name} gave {got}, but student {shape_of(student)} has the positions '
            f'{(student.shape[0], *size)}. Mend: a weight (N, *S) for each of them; parts for maps '
            'go with losses on maps'
        )
    if not weight.is_floating_point():
        raise TypeError(f'{name} gave {weight.dtype}. Mend: a float tensor, such as weight.float()')
    if weight.shape[1:] == size:
        return weight
    return F.interpolate(weight.unsqueeze(1), size=tuple(size), mode='area').squeeze(1)


def labels_at(batch: Batch, student: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return labels and where they count, both (N, \*S) by nearest at the size of a map.

    >>> from types import SimpleNamespace
    >>> labels = torch.tensor([[[1, 1, 255, 255]]])
    >>> batch = SimpleNamespace(labels=labels, valid=labels != 255)
    >>> labels_at(batch, torch.zeros(1, 3, 1, 2))
    (tensor([[[  1, 255]]]), tensor([[[ True, False]]]))
    """
    size = tuple(student.shape[2:])
    return resize_labels(batch.labels, size), resize_labels(batch.valid, size)


def class_logits(name: str, side: str, logits: Any) -> Tensor:
    """Return class logits in float32 or wider; refuse none, and those of a single class.

    Args:
        name: How errors call the part.
        side: 'student' or 'teacher'.
        logits: What it was given.

    Raises:
        ValueError: There are none, or of one class.

    >>> class_logits('Focal', 'student', torch.zeros(2, 3, dtype=torch.float16)).dtype
    torch.float32
    """
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        got = shape_of(logits) if isinstance(logits, Tensor) else logits
        raise ValueError(
            f'{name} needs class logits (N, C, *S) of the {side}, got {got}. Mend: '
            f"reads=dict({side}='<member>.logits') in the part"
        )
    check_classes(logits)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
