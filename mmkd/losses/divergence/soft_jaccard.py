"""JML: the soft Jaccard or Dice distance of class probabilities, which is 0 at soft labels too."""

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_distributions
from mmkd.losses.functional import (
    above_zero,
    counted,
    fill_masked,
    infinite_to_nan,
    masked_mean,
    measure,
    no_autocast,
    sum_over_ranks,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice

METRICS = ('jaccard', 'dice')
SCOPES = ('batch', 'image')


def soft_jaccard(
    student: Tensor,
    teacher: Tensor,
    metric: str = 'jaccard',
    scope: str = 'batch',
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Jaccard distance of the class probabilities of student and teacher, as regions.

    Papers: Wang et al., Jaccard Metric Losses (JML), NeurIPS 2023, arXiv 2302.05666; Dice
    Semimetric Losses (DML), MICCAI 2023, arXiv 2303.16296. p, q are the softmax of student and
    teacher, the norms sums over positions, class by class:

    .. math:: \frac{1}{C} \sum_c 1 - \frac{t_c}{\Vert p_c \Vert_1 + \Vert q_c \Vert_1 - t_c},
              \quad t_c = \tfrac{1}{2} \left( \Vert p_c \Vert_1 + \Vert q_c \Vert_1
              - \Vert p_c - q_c \Vert_1 \right)

    'dice' has 1 − 2 t / (‖p‖ + ‖q‖) instead. Of hard labels it is the usual soft Jaccard; of soft
    ones that one is not 0 at p = q, while this is. At p = q its gradient is 0, beside it a sign.

    Normaliser: averaged over classes, those of no mass counting as 0; 'image' also averages over
    images with a valid position. 'batch' is that of all ranks: sums over one device alone would
    optimise the Jaccard of single images.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        metric: 'jaccard' or 'dice'.
        scope: 'batch': regions lie in the whole batch; 'image': in each image.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single class, an unknown option.
        TypeError: a mask that is not bool, a weight that is not floating.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[1., 3.]]).log()  # (1/4, 3/4): 2 (1/4) / (3/4 + 1/4), and 2/6
        >>> soft_jaccard(torch.zeros(1, 2), teacher)  # (1/2 + 1/3) / 2
        tensor(0.4167)
    """
    check_choice('metric', metric, METRICS)
    check_choice('scope', scope, SCOPES)
    check_distributions(student, teacher, 'soft Jaccard', mask, weight)
    with no_autocast(student):
        student, teacher = widen(student, teacher.detach())
        valid = counted(mask, weight)
        student, teacher = (fill_masked(x, valid) for x in (student, teacher))
        p, q = infinite_to_nan(student).softmax(1), teacher.softmax(1)
        p, q = (x.reshape(*x.shape[:2], -1) for x in (p, q))
        own = None
        if weight is not None:
            own = measure(weight, mask, p.dtype)
        elif mask is not None:
            own = mask.to(p.dtype)
        alive = None
        if own is not None:
            own = own.reshape(len(p), 1, -1)
            alive = above_zero(own).any(2).expand(p.shape[:2])
        over = (0, 2) if scope == 'batch' else (2,)
        sums = torch.stack([_sum(x, own, over) for x in (p + q, (p - q).abs())])
        sizes, apart = sum_over_ranks(sums) if scope == 'batch' else sums
        whole = sizes + apart if metric == 'jaccard' else sizes  # twice the union; or the sum
        apart = 2 * apart if metric == 'jaccard' else apart
        some = ~(whole <= 1e3 * torch.finfo(p.dtype).tiny)
        distance = apart.where(some, apart.new_zeros(())) / whole.where(some, whole.new_ones(()))
        return distance.mean() if scope == 'batch' else masked_mean(distance, alive)


def _sum(x: Tensor, own: Tensor | None, over: tuple[int, ...]) -> Tensor:
    return (x if own is None else x * own).sum(over)


@MODELS.register_module()
class SoftJaccardLoss(Loss):
    r"""JML: Jaccard or Dice distance of class probabilities; see :func:`soft_jaccard`.

    Args:
        metric: 'jaccard' or 'dice'.
        scope: 'batch': regions lie in the whole batch; 'image': in each image.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[1., 3.]]).log()
        >>> SoftJaccardLoss('dice')(torch.zeros(1, 2), teacher)  # (1/3 + 1/5) / 2
        tensor(0.2667)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True))

    def __init__(
        self,
        metric: str = 'jaccard',
        scope: str = 'batch',
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_choice('metric', metric, METRICS)
        check_choice('scope', scope, SCOPES)
        self.metric, self.scope = metric, scope

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) under a bool mask and a weight."""
        return self.loss_weight * soft_jaccard(
            student, teacher, self.metric, self.scope, mask, weight
        )
