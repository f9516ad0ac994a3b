"""Flow of solution (FSP): what the channels of one layer and of a later one have in common."""

from torch import Size, Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.functional import masked_mean, measure_of, no_autocast, widen
from mmkd.losses.relations.nodes import averaged_to, resized
from mmkd.registry import MODELS


def flow_of_solution(
    student: Tensor,
    teacher: Tensor,
    student_next: Tensor,
    teacher_next: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Mean squared difference of the inner products between the channels of two layers.

    Paper: Yim et al., A Gift from Knowledge Distillation (FSP), CVPR 2017.

    .. math:: \frac{1}{N C C'} \sum_{n, c, d} (G^s_{ncd} - G^t_{ncd})^2,
              \quad G_{ncd} = \frac1P \sum_i F_{nci} F'_{ndi}

    with F a layer and F' a later one. Normaliser: mean over images and pairs of channels of both
    layers, as in RepDistiller's code; the number P of positions does not change a value. The larger
    of the two maps is averaged to the size of the smaller. Channels of student and teacher are
    compared one by one.

    Positions that do not count are left out of the averages and of P, images of which nothing
    counts altogether. A weight is the measure of the mean over positions.

    Args:
        student: Map (N, C, \*S) of a layer, one to three spatial axes.
        teacher: Map of the same shape; receives no gradient.
        student_next: Map (N, C', \*S') of a later layer.
        teacher_next: Map of the same shape as that; receives no gradient.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> import torch
        >>> ours, theirs = torch.tensor([[[1., 3.]]]), torch.tensor([[[1., 1.]]])
        >>> flow_of_solution(ours, theirs, ours, theirs)  # ((1 + 9) / 2 − 1)²
        tensor(16.)
    """
    _check(student, teacher, student_next, teacher_next)
    check_mask(mask, student)
    check_weight(weight, student)
    with no_autocast(student):
        sides = widen(student, student_next, teacher.detach(), teacher_next.detach())
        own = measure_of(sides[0], mask, weight)
        size = min(student.shape[2:], student_next.shape[2:], key=lambda s: s.numel())
        ours, theirs = (_flow(a, b, own, size) for a, b in (sides[:2], sides[2:]))
        alive = None if own is None else own.flatten(1).any(1)
        return masked_mean((ours - theirs).square().mean((1, 2)), alive)


def _flow(a: Tensor, b: Tensor, own: Tensor | None, size: Size) -> Tensor:
    """Return G (N, C, C')."""
    a, b = (averaged_to(x, own, size).flatten(2) for x in (a, b))
    if own is None:
        return a @ b.mT / a.shape[2]
    measured = resized(own, size).flatten(2)
    total = measured.sum(2, keepdim=True)
    return (a * (measured / total.where(total > 0, total.new_ones(())))) @ b.mT


def _check(student: Tensor, teacher: Tensor, student_next: Tensor, teacher_next: Tensor) -> None:
    maps = (student, teacher, student_next, teacher_next)
    fits = 3 <= student.dim() <= 5 and student.dim() == student_next.dim()
    fits = fits and student.shape == teacher.shape and student_next.shape == teacher_next.shape
    if not fits or len(student) != len(student_next):
        raise ValueError(
            "FSP needs two layers (N, C, *S) and (N, C', *S'), one to three spatial axes, of one "
            'shape in student and teacher; got student, teacher, student_next, teacher_next '
            f"{', '.join(map(shape_of, maps))}; mend: connectors=dict(student='auto', "
            "student_next='auto')"
        )


@MODELS.register_module()
class FlowOfSolutionLoss(Loss):
    r"""Inner products between the channels of two layers (FSP); see :func:`flow_of_solution`.

    ``reads=dict(student='student.a', student_next='student.b', teacher='teacher.a',
    teacher_next='teacher.b')`` names the layers.

    Args:
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> ours, theirs = torch.tensor([[[1., 3.]]]), torch.tensor([[[1., 1.]]])
        >>> FlowOfSolutionLoss(loss_weight=0.5)(ours, theirs, ours, theirs)
        tensor(8.)
    """

    roles = dict(student=Map(), teacher=Map(), student_next=Map(), teacher_next=Map())

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        student_next: Tensor,
        teacher_next: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of two layers under mask and weight (N, \*S) of the first."""
        return self.loss_weight * flow_of_solution(
            student, teacher, student_next, teacher_next, mask, weight
        )
