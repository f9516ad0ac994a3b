"""Refusals that losses share: masks and class logits that do not fit."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

OTHER_CLASSES = (
    'Class k of one is not class k of the other, and a convolution trained between them would only '
    'hide that. Mend: members of the same classes, or compare features (PairWiseAffinityLoss on '
    'what the last layer reads)'
)


def shape_of(tensor: Tensor) -> str:
    """Return a shape as errors print it.

    >>> shape_of(torch.zeros(2, 3))
    '(2, 3)'
    """
    return str(tuple(tensor.shape))


def check_mask(mask: Tensor | None, student: Tensor) -> None:
    """Refuse a mask that is not a bool tensor of the student's positions.

    Raises:
        TypeError: the mask is no bool tensor.
        ValueError: its shape is not that of the student without channels.

    >>> check_mask(torch.ones(2, 4, 4, dtype=torch.bool), torch.zeros(2, 3, 4, 4))
    """
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(
            f'mask must be a bool tensor (True where a position counts), got {mask.dtype}; mend: '
            'labels != ignore_index'
        )
    _check_positions('mask', mask, student, 'resize the mask by nearest')


def check_weight(weight: Tensor | None, student: Tensor) -> None:
    """Refuse a weight that is not a float tensor of the student's positions.

    Raises:
        TypeError: the weight is no float tensor.
        ValueError: its shape is not that of the student without channels.

    >>> check_weight(torch.ones(2, 4, 4), torch.zeros(2, 3, 4, 4))
    """
    if weight is None:
        return
    if not weight.is_floating_point():
        raise TypeError(
            f'weight must be a float tensor (how much a position counts), got {weight.dtype}; '
            'mend: weight.float(), or mask= for what counts or not'
        )
    _check_positions('weight', weight, student, 'resize the weight')


def _check_positions(name: str, x: Tensor, student: Tensor, mend: str) -> None:
    expected = (student.shape[0], *student.shape[2:])
    if x.shape != expected:
        raise ValueError(
            f'{name} must have the shape {expected} of student {shape_of(student)} without its '
            f'channels, got {shape_of(x)}; mend: {mend}'
        )


def check_distributions(
    student: Tensor,
    teacher: Tensor,
    name: str,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> None:
    """Refuse what no softmax over classes compares: logits, mask and weight of both sides.

    Raises:
        TypeError: the mask is not bool, the weight no float tensor.
        ValueError: shapes that do not fit, a single class.

    >>> check_distributions(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), 'DIST')
    """
    check_logits(student, teacher, name)
    check_classes(student)
    check_mask(mask, student)
    check_weight(weight, student)


def check_labels(labels: Tensor, student: Tensor, name: str) -> None:
    """Refuse labels that are not classes of the student's positions.

    Raises:
        TypeError: they are no integers.
        ValueError: their shape is not that of the student without channels.

    >>> check_labels(torch.zeros(2, 4, 4, dtype=torch.long), torch.zeros(2, 3, 4, 4), 'DKD')
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f'{name} needs labels of an integer dtype, got {labels.dtype}; mend: '
            "reads=dict(labels='batch.labels')"
        )
    expected = (student.shape[0], *student.shape[2:])
    if labels.shape != expected:
        raise ValueError(
            f'{name} needs labels {expected} for student {shape_of(student)}, got '
            f'{shape_of(labels)}; mend: resize the labels by nearest'
        )


def check_classes(student: Tensor) -> None:
    """Refuse logits of a single class, whose softmax is always 1.

    Raises:
        ValueError: there is one class.

    >>> check_classes(torch.zeros(2, 19, 4, 4))
    """
    if student.shape[1] == 1:
        raise ValueError(
            'softmax over a single class is always 1, so this loss contributes nothing: '
            f'{shape_of(student)}; mend: BinaryKLLoss for a sigmoid head, or give both a '
            'background class, e.g. torch.cat([zeros, logits], 1)'
        )


def check_logits(student: Tensor, teacher: Tensor, name: str) -> None:
    """Refuse logits that are not (N, C, *S) of the same classes at the same places.

    Raises:
        ValueError: Names the loss and both shapes.

    >>> check_logits(torch.zeros(2, 19, 4, 4), torch.ones(2, 19, 4, 4), 'pixel-wise KL')
    """
    shapes = f'student {shape_of(student)}, teacher {shape_of(teacher)}'
    if student.dim() < 2 or teacher.dim() < 2:
        raise ValueError(f'{name} needs logits (N, C, *S), got {shapes}')
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f'student has {student.shape[1]} classes but teacher has {teacher.shape[1]} '
            f'({shapes}). {OTHER_CLASSES}'
        )
    if student.shape != teacher.shape:
        raise ValueError(
            f'student and teacher logits differ in shape: {shapes}; mend: logits of one size, '
            "connectors=dict(teacher='auto') resizes a teacher's map"
        )


def check_levels(student: Any, teacher: Any, dims: tuple[int, ...] = (4,)) -> None:
    """Refuse what are not two lists of maps, level beside level, of the same images.

    Args:
        student: The student's maps.
        teacher: The teacher's.
        dims: How many axes a map has; with 2 vectors (N, F) are levels too.

    Raises:
        TypeError: no list.
        ValueError: no maps, lists of other lengths, another number of images.

    >>> check_levels([torch.zeros(2, 3, 4, 4)], [torch.zeros(2, 5, 2, 2)])
    """
    for role, maps in (('student', student), ('teacher', teacher)):
        if not isinstance(maps, list | tuple):
            raise TypeError(
                f'{role} must be a list of maps, one a stage, got {type(maps).__name__}; mend: '
                f"reads=dict({role}=['{role}.stage1', …])"
            )
        if any(x.dim() not in dims for x in maps):
            raise ValueError(f'{role} needs maps (N, F, H, W), got {[shape_of(x) for x in maps]}')
    check_stages(student, teacher, 'student', 'teacher')
    if len({len(x) for x in [*student, *teacher]}) != 1:
        raise ValueError(
            f'the stages differ in their number of images: student {[len(x) for x in student]}, '
            f'teacher {[len(x) for x in teacher]}'
        )


def check_stages(student: Sequence, teacher: Sequence, one: str, other: str) -> None:
    """Refuse lists of other lengths, and empty ones.

    Raises:
        ValueError: Names both.

    >>> check_stages([64, 128], [256, 512], 'student_channels', 'teacher_channels')
    """
    if len(student) != len(teacher) or not len(student):
        raise ValueError(
            f'{one} has {len(student)} stages, {other} {len(teacher)}; mend: lists of one length, '
            'stage beside stage'
        )


def as_maps(levels: Sequence[Tensor]) -> list[Tensor]:
    """Return maps (N, F, H, W) as they are, vectors (N, F) as maps of one place.

    >>> [x.shape[2:] for x in as_maps([torch.zeros(1, 3, 4, 5), torch.zeros(1, 8)])]
    [torch.Size([4, 5]), torch.Size([1, 1])]
    """
    return [x[..., None, None] if x.dim() == 2 else x for x in levels]


def check_one_counts(loss: str, **factors: float) -> None:
    """Refuse factors that are all 0, of which nothing would be learned.

    Raises:
        ValueError: Names them.

    >>> check_one_counts('a loss', alpha=0.0, beta=1.0)
    """
    if not any(factors.values()):
        named = ' and '.join(f'{name}={value:g}' for name, value in factors.items())
        raise ValueError(f'{loss} with {named} learns nothing. Mend: one of them above 0')
