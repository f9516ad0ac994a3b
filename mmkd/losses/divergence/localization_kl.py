"""LD: where the edges of boxes lie, as distributions over bins."""

from torch import Tensor

from mmkd.losses.base import Loss, Many
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.divergence.pixel_wise_kl import pixel_wise_kl
from mmkd.losses.levels import Levels, check_places, join_levels, weight_by_scores
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count, check_fraction, check_positive


def localization_kl(
    student: Tensor,
    teacher: Tensor,
    edges: int = 4,
    tau: float = 10.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Divergence of the distributions over bins that say where each edge of a box lies.

    Paper: Zheng et al., Localization Distillation for Dense Object Detection (LD), CVPR 2022, arXiv
    2102.12252. Heads such as GFL's predict for each edge e of a box n + 1 numbers z, whose softmax
    is a distribution of its distance.

    .. math:: \frac{\tau^2}{E \sum_i w_i} \sum_i w_i \sum_e
              \mathrm{KL}(q_{ie}^t \Vert q_{ie}^s), \quad q_{ie} = \mathrm{softmax}(z_{ie} / \tau)

    Normaliser: summed over bins, averaged over edges and over positions by their weight. The
    authors' code also divides by the n + 1 bins.

    Args:
        student: Logits (N, E·(n + 1), \*S), edge by edge, any number of spatial axes.
        teacher: Logits of the same shape; receives no gradient.
        edges: E; of boxes that are turned, more than 4.
        tau: Temperature.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, channels that are not so many edges of two bins or more.
        TypeError: a mask that is not bool, a weight that is not floating.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[1., 3., 1., 1.]]).log()  # edges (1/4, 3/4) and (1/2, 1/2)
        >>> localization_kl(torch.zeros(1, 4), teacher, edges=2, tau=1.)  # (0.1308 + 0) / 2
        tensor(0.0654)
    """
    check_count('edges', edges, 1)
    _check_edges(student, teacher, edges)
    check_mask(mask, student)
    check_weight(weight, student)
    student, teacher = (
        x.reshape(len(x) * edges, x.shape[1] // edges, *x.shape[2:]) for x in (student, teacher)
    )
    mask, weight = (None if x is None else x.repeat_interleave(edges, 0) for x in (mask, weight))
    return pixel_wise_kl(student, teacher, tau, mask=mask, weight=weight)


def _check_edges(student: Tensor, teacher: Tensor, edges: int) -> None:
    shapes = f'student {shape_of(student)}, teacher {shape_of(teacher)}'
    if student.dim() < 2 or student.shape != teacher.shape:
        raise ValueError(
            f'localization KL needs maps (N, {edges} · bins, *S) of one shape, got {shapes}; mend: '
            'heads of one reg_max, at levels of one size'
        )
    if student.shape[1] % edges or student.shape[1] == edges:
        raise ValueError(
            f'localization KL needs {edges} distributions over two bins or more a position, got '
            f'{shapes}; mend: a head that predicts distributions (GFLHead), or edges=…'
        )


@MODELS.register_module()
class LocalizationKLLoss(Loss):
    r"""LD: the edges of boxes, where there are some, as distributions; see :func:`localization_kl`.

    All levels of a detector are one set of positions, so that a level without an object does not
    count. A position counts as much as the likeliest class of ``scores``, σ(max_c), and not at all
    below ``least``. The paper counts positions that its assigner takes for objects by the student's
    score, and others near them, the valuable region, by their overlap with a box. The scores of the
    teacher say both without boxes and anchors: high within objects, lower around them.

    Args:
        edges: Of a box.
        tau: Temperature.
        least: The score below which a position does not count.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> student, scores = [torch.zeros(1, 4, 2)], [torch.tensor([[[9., 1.]]]).log()]  # 0.9, 0.5
        >>> teacher = [torch.tensor([[1., 3., 1., 1.], [1., 1., 1., 1.]]).log().T[None]]
        >>> LocalizationKLLoss(edges=2, tau=1.)(student, teacher, scores)  # 0.0654 · 9 / 14
        tensor(0.0420)
    """

    roles = dict(student=Many(), teacher=Many(), scores=Many())

    def __init__(
        self,
        edges: int = 4,
        tau: float = 10.0,
        least: float = 0.0,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_count('edges', edges, 1)
        check_positive('tau', tau)
        check_fraction('least', least)
        self.edges, self.tau, self.least = edges, tau, least

    def forward(
        self,
        student: Levels,
        teacher: Levels,
        scores: Levels | None = None,
        mask: Levels | None = None,
        weight: Levels | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, E·(n + 1), \*S), of one level or a list of them.

        Args:
            student: Logits of the bins.
            teacher: The same of the teacher.
            scores: Class logits (N, C, \*S) of either, each class a sigmoid; receive no gradient.
            mask: Bool (N, \*S), True where a position counts.
            weight: How much it counts besides (N, \*S).
        """
        check_places('localization KL', student=student, teacher=teacher, scores=scores)
        joined = None if weight is None else join_levels(weight, 1)
        if scores is not None:
            joined = weight_by_scores(join_levels(scores, 2), self.least, joined)
        return self.loss_weight * localization_kl(
            join_levels(student, 2),
            join_levels(teacher, 2),
            self.edges,
            self.tau,
            None if mask is None else join_levels(mask, 1),
            joined,
        )
