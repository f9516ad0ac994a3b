"""Answers to queries: classes and boxes of two decoders that were asked the same."""

import torch
from torch import Tensor

from mmkd.losses.boxes.overlap import overlap_penalty
from mmkd.losses.checks import shape_of
from mmkd.losses.divergence.pixel_wise_kl import pixel_wise_kl
from mmkd.losses.functional import no_autocast, weighted_mean, widen


def query_answers(
    student: Tensor,
    teacher: Tensor,
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    weight: Tensor | None = None,
    tau: float = 10.0,
    classes: float = 1.0,
    l1: float = 5.0,
    giou: float = 2.0,
) -> Tensor:
    r"""Divergence of classes, and distance of boxes, query by query.

    Paper: Wang et al., KD-DETR, CVPR 2024, arXiv 2211.08071.

    .. math:: \frac{1}{\sum_q w_q} \sum_q w_q \big( a \, \tau^2 \mathrm{KL}(p_q^t \Vert p_q^s) +
              \tfrac{b}{4} \lVert b_q^s - b_q^t \rVert_1 + c \, (1 - \mathrm{GIoU}(b_q^s, b_q^t))
              \big)

    with p the softmax over classes at τ. Normaliser: a mean over queries by their weight, over
    classes a sum. The authors' code takes boxes so; its classes are Σ w / C times those here, a sum
    over queries and a mean over classes.

    Args:
        student: Class logits (\*S, C).
        teacher: The same; receives no gradient.
        student_boxes: Boxes (\*S, 4): centre, width and height, in parts of the image.
        teacher_boxes: The same; receive no gradient.
        weight: How much a query counts (\*S), 0 or above; receives no gradient. None: all alike.
        tau: Temperature of the classes.
        classes: a.
        l1: b.
        giou: c.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, one class whose softmax is always 1.

    Examples:
        >>> logits, boxes = torch.zeros(1, 2), torch.tensor([[0.5, 0.5, 0.2, 0.2]])
        >>> wider = torch.tensor([[0.5, 0.5, 0.4, 0.2]])
        >>> query_answers(logits, logits, boxes, wider)  # 5 · 0.2 / 4 + 2 · (1 − 1/2)
        tensor(1.2500)
    """
    _check(student, teacher, student_boxes, teacher_boxes)
    _check_classes(student, classes)
    with no_autocast(student):
        ours, theirs, own, other = widen(
            student, teacher.detach(), student_boxes, teacher_boxes.detach()
        )
        rows = [x.reshape(-1, x.shape[-1]) for x in (ours, theirs)]
        counts = None if weight is None else weight.detach().reshape(-1).to(ours.dtype)
        apart = l1 * (own - other).abs().mean(-1)
        apart = apart + giou * overlap_penalty(_corners(own), _corners(other))
        value = weighted_mean(apart.reshape(-1), None, counts)
        if classes:
            value = value + classes * pixel_wise_kl(rows[0], rows[1], tau, weight=counts)
        return value


def _corners(boxes: Tensor) -> Tensor:
    r"""Return left, top, right, bottom (4, \*S) of boxes (\*S, 4) by centre and sides."""
    x, y, width, height = boxes.unbind(-1)
    half_x, half_y = width / 2, height / 2
    return torch.stack([x - half_x, y - half_y, x + half_x, y + half_y])


def _check(student: Tensor, teacher: Tensor, own: Tensor, other: Tensor) -> None:
    places = {x.shape[:-1] for x in (student, teacher, own, other)}
    if student.shape != teacher.shape or len(places) > 1 or {own.shape[-1], other.shape[-1]} != {4}:
        raise ValueError(
            'answers to queries are class logits (*S, C) and boxes (*S, 4) of the same queries, '
            f'got logits {shape_of(student)} and {shape_of(teacher)}, boxes {shape_of(own)} and '
            f'{shape_of(other)}; mend: members of the same classes'
        )


def _check_classes(student: Tensor, classes: float) -> None:
    if classes and student.shape[-1] == 1:
        raise ValueError(
            'answers of one class have no softmax over classes to compare, got logits '
            f'{shape_of(student)} and classes={classes}; mend: classes=0.'
        )
