"""Intra-class feature variation: how like every position is to the centre of its own class."""

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map, OfBatch
from mmkd.losses.checks import check_labels, check_mask, check_weight, shape_of
from mmkd.losses.divergence.split import known_labels
from mmkd.losses.functional import (
    fill_masked,
    labelled,
    no_autocast,
    scaled,
    unit_vectors,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count


def intra_class_variation(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    num_classes: int | None = None,
    ignore_index: int = 255,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Mean squared difference of two maps of similarity to the centre of the own class.

    Paper: Wang et al., Intra-class Feature Variation Distillation (IFVD), ECCV 2020. The centre of
    a class in an image is the mean feature of its positions there; its gradient flows, as in the
    authors' code.

    .. math:: \frac{1}{|V|} \sum_{i \in V} (M^s_i - M^t_i)^2,
              \quad M_i = \cos(F_i, \mu_{n(i), y_i})

    Normaliser: averaged over the labelled, valid positions V of the whole batch. In the authors'
    code a position without a class is its own centre: it adds 0, but stays in the denominator. A
    mask also leaves its positions out of the centres; a weight counts in the mean alone. A class of
    one position in an image has cosine 1 there, a zero vector 0.

    Args:
        student: Map (N, C, \*S), one spatial axis or more.
        teacher: Map (N, C', \*S); receives no gradient.
        labels: Classes (N, \*S).
        num_classes: Labels from this on are no class; None looks for the highest, which waits for
            the device.
        ignore_index: The label of a position that has no class.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: labels that are no integers, a mask that is not bool, a weight that is not
            floating.

    Examples:
        >>> import torch
        >>> student = torch.tensor([[[1., 0.], [0., 1.]]])  # both are at 45° to their centre
        >>> teacher = torch.tensor([[[1., 1.], [1., 1.]]])
        >>> intra_class_variation(student, teacher, torch.zeros(1, 2, dtype=torch.long))
        tensor(0.0858)
    """
    _check_maps(student, teacher)
    check_labels(labels, student, 'IFVD')
    check_mask(mask, student)
    check_weight(weight, student)
    if num_classes is None:
        num_classes = max(int(labels.masked_fill(labels == ignore_index, 0).max()), 0) + 1
    with no_autocast(student):
        valid = labelled(labels, num_classes, ignore_index, mask)
        student, teacher = widen(student, teacher.detach())
        index = known_labels(labels, valid).flatten(1)
        counts = index.new_zeros(len(labels), num_classes, dtype=student.dtype)
        counts = counts.scatter_add(1, index, valid.flatten(1).to(student.dtype)).clamp(min=1)
        # the teacher first, whose filled map is gone before the student's is made
        theirs, ours = (
            _likeness(fill_masked(x, valid).flatten(2), index, counts) for x in (teacher, student)
        )
        return weighted_mean((ours - theirs).square().view(valid.shape), valid, weight)


def _likeness(x: Tensor, index: Tensor, counts: Tensor) -> Tensor:
    """Return the cosine of every position with the centre of its class in its image, (N, P).

    Args:
        x: (N, C, P), 0 where nothing counts.
        index: The class of each position (N, P).
        counts: How many positions a class has, 1 or more (N, K).
    """
    each = index.unsqueeze(1).expand(x.shape)
    sums = x.new_zeros(*x.shape[:2], counts.shape[1]).scatter_add(2, each, x)
    centres = unit_vectors(sums / counts.unsqueeze(1), 1)
    x = scaled(x, 1)
    if centres.shape[2] > x.shape[1]:  # scores of all classes would be more than a map
        dots = (centres.gather(2, each) * x).sum(1)
    else:
        dots = (centres.transpose(1, 2) @ x).gather(1, index.unsqueeze(1)).squeeze(1)
    length = torch.linalg.vector_norm(x, dim=1)
    return dots / length.where(length > 0, length.new_ones(()))


def _check_maps(student: Tensor, teacher: Tensor) -> None:
    if student.dim() < 3 or (student.shape[0], *student.shape[2:]) != (
        teacher.shape[0],
        *teacher.shape[2:],
    ):
        raise ValueError(
            'IFVD needs maps (N, C, *S) of the same places, got student '
            f'{shape_of(student)}, teacher {shape_of(teacher)}; mend: '
            "connectors=dict(teacher='auto') resizes a teacher's map"
        )


@MODELS.register_module()
class IntraClassVariationLoss(Loss):
    r"""Likeness to the centre of the own class (IFVD); see :func:`intra_class_variation`.

    Args:
        num_classes: Labels from this on are no class; None looks for the highest at every call,
            which waits for the device.
        ignore_index: The label of a position that has no class.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> student, teacher = torch.tensor([[[1., 0.], [0., 1.]]]), torch.ones(1, 4, 2)
        >>> labels = torch.tensor([[0, 1]])  # each is its own centre
        >>> IntraClassVariationLoss(num_classes=2)(student, teacher, labels)
        tensor(0.)
    """

    roles = dict(student=Map(alike=('size',)), teacher=Map(alike=('size',)), labels=OfBatch())

    def __init__(
        self,
        num_classes: int | None = None,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        if num_classes is not None:
            check_count('num_classes', num_classes, 1)
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) with labels, mask, weight (N, \*S)."""
        return self.loss_weight * intra_class_variation(
            student, teacher, labels, self.num_classes, self.ignore_index, mask, weight
        )
