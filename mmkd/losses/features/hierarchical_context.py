"""Hierarchical context: maps of several levels, compared as they are and pooled coarsely."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.base import Loss, Many
from mmkd.losses.checks import as_maps, check_levels, check_mask, check_weight
from mmkd.losses.features.point_wise import check_features, cost
from mmkd.losses.functional import fill_masked, measure_of, no_autocast, weighted_mean, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count, check_non_negative

CELLS = (4, 2, 1)


def hierarchical_context(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    level_weights: Sequence[float] | None = None,
    cells: Sequence[int] = CELLS,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Mean squared difference of maps and of what is left of them in 4×4, 2×2 and 1×1 cells.

    Paper: Chen et al., Distilling Knowledge via Knowledge Review (ReviewKD), CVPR 2021, arXiv
    2104.09044, the hierarchical context loss. With D the mean over images, places and channels of
    (s − t)², and P_k the mean over each of k×k cells (adaptive pooling) of those k that are smaller
    than both sides of the map, the j-th of them:

    .. math:: L = \frac{1}{\sum_l w_l} \sum_l w_l \frac{D(s_l, t_l) + \sum_j 2^{-j} D(P_{k_j} s_l,
              P_{k_j} t_l)}{1 + \sum_j 2^{-j}}

    Normaliser: a mean over levels, where the authors' code adds them up. A map of difference 1
    everywhere has the value 1.

    Mask and weight are of the first level's places; a place of another level, or a cell, counts by
    the mean of what it covers, and a cell's mean is over what counts.

    Args:
        student: Maps (N, C, H, W) of each level, or vectors (N, C).
        teacher: The same; receive no gradient.
        level_weights: w, one a level, 0 or above; None: all alike.
        cells: k, falling.
        mask: Bool (N, H, W) of the first level, True where a position counts.
        weight: Float (N, H, W) of the first level, 0 or above: how much it counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes or numbers of levels that do not fit.
        TypeError: no lists, a mask that is not bool, a weight that is no float.

    Examples:
        >>> import torch
        >>> student, teacher = torch.tensor([[[[1., 3.], [0., 0.]]]]), torch.zeros(1, 1, 2, 2)
        >>> hierarchical_context([student], [teacher])  # (10 / 4 + 1/2 · 1²) / 1.5
        tensor(2.)
    """
    check_levels(student, teacher, dims=(2, 4))
    for k, (s, t) in enumerate(zip(as_maps(student), as_maps(teacher), strict=True)):
        _check_channels(k, s, t)
        check_features(s, t, f'hierarchical context, level {k}')
    check_mask(mask, student[0])
    check_weight(weight, student[0])
    _check_level_weights(level_weights)
    _check_cells(cells)
    shares = _shares(level_weights, len(student))
    with no_autocast(student[0]):
        wide = widen(*as_maps(student), *(x.detach() for x in as_maps(teacher)))
        counts = _counts(mask, weight, wide[0])
        total = wide[0].new_zeros(())
        for share, s, t in zip(shares, wide, wide[len(student) :], strict=False):
            # a level of weight 0 takes part: DDP waits for the gradients of its connector
            value = share * _level(s, t, cells, counts) if share else 0.0 * s.sum()
            total = total + value
        return total


def _check_channels(level: int, student: Tensor, teacher: Tensor) -> None:
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f'hierarchical context, level {level}: student has {student.shape[1]} channels, '
            f'teacher {teacher.shape[1]}; mend: '
            "connectors=dict(student=dict(type='LevelFusion')), which joins the student's levels"
        )


def _level(student: Tensor, teacher: Tensor, cells: Sequence[int], counts: Tensor | None) -> Tensor:
    """Return the value of one level; ``counts`` (N, 1, H, W) is how much places of the first do."""
    if counts is not None:
        height, width = student.shape[2:]
        counts = F.adaptive_avg_pool2d(counts, (height, width))
        student, teacher = (fill_masked(x, counts[:, 0] > 0) for x in (student, teacher))
    value, factor, factors = _distance(student, teacher, counts), 1.0, 1.0
    for k in cells:
        if k < min(student.shape[2:]):
            factor /= 2
            factors += factor
            pooled = [_pooled(x, k, counts) for x in (student, teacher)]
            there = None if counts is None else F.adaptive_avg_pool2d(counts, k)
            value = value + factor * _distance(pooled[0], pooled[1], there)
    return value / factors


def _distance(student: Tensor, teacher: Tensor, counts: Tensor | None) -> Tensor:
    weight = None if counts is None else counts[:, 0]
    return weighted_mean(cost(student, teacher, 'l2'), None, weight)


def _pooled(x: Tensor, k: int, counts: Tensor | None) -> Tensor:
    """Return the mean of each of k×k cells over what counts."""
    if counts is None:
        return F.adaptive_avg_pool2d(x, k)
    below = F.adaptive_avg_pool2d(counts, k)
    return F.adaptive_avg_pool2d(counts * x, k) / below.where(below > 0, below.new_ones(()))


def _counts(mask: Tensor | None, weight: Tensor | None, like: Tensor) -> Tensor | None:
    """Return how much each place of the first level counts, (N, 1, H, W)."""
    own = measure_of(like, mask, weight)
    return None if own is None else own.view(len(like), 1, *like.shape[2:])


def _shares(weights: Sequence[float] | None, levels: int) -> list[float]:
    """Return what each level is of the value."""
    if weights is None:
        return [1 / levels] * levels
    if len(weights) != levels:
        raise ValueError(
            f'level_weights must be one for each of {levels} levels, got {list(weights)}; mend: as '
            'many as there are taps'
        )
    return [weight / sum(weights) for weight in weights]


def _check_level_weights(weights: Sequence[float] | None) -> None:
    if weights is None:
        return
    for weight in weights:
        check_non_negative('level_weights', weight)
    if not any(weights):
        raise ValueError(f'level_weights are all 0, got {list(weights)}; mend: one above 0')


def _check_cells(cells: Sequence[int]) -> None:
    for k in cells:
        check_count('cells', k, 1)


@MODELS.register_module()
class HierarchicalContextLoss(Loss):
    r"""Hierarchical context of a list of maps (ReviewKD); see :func:`hierarchical_context`.

    Student and teacher are lists of taps, level beside level, shallow to deep. What brings the
    student's to the teacher's is a connector of levels, ``connectors=dict(student=dict(type=
    'LevelFusion'))``, see :class:`mmkd.connectors.level_fusion.LevelFusion`.

    Args:
        level_weights: How much each level counts, relative to the others; None: all alike.
        cells: Sides of the pooled maps.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: weights below 0 or all 0, cells below 1.

    Examples:
        >>> import torch
        >>> maps = [torch.zeros(2, 3, 8, 12), torch.zeros(2, 5, 4, 6)]
        >>> HierarchicalContextLoss()(maps, [x + 1 for x in maps])
        tensor(1.)
    """

    roles = dict(student=Many(), teacher=Many())

    def __init__(
        self,
        level_weights: Sequence[float] | None = None,
        cells: Sequence[int] = CELLS,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        _check_level_weights(level_weights)
        _check_cells(cells)
        self.level_weights, self.cells = level_weights, tuple(cells)

    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted loss of lists of maps, under mask and weight of the first level."""
        return self.loss_weight * hierarchical_context(
            student, teacher, self.level_weights, self.cells, mask, weight
        )
