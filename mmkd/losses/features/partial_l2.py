"""The overhaul of feature distillation (OFD): margin ReLU of the teacher, partial L2 distance."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.base import Loss
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.features.point_wise import check_features
from mmkd.losses.functional import (
    fill_masked,
    no_autocast,
    place_axes,
    sum_over_ranks,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice

BATCH = 'batch'


def partial_l2(
    student: Tensor,
    teacher: Tensor,
    margin: str | float | Tensor = BATCH,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared difference from the teacher's features, but where both would be cut by a ReLU.

    Paper: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, arXiv
    1904.01866. Features are those before a ReLU.

    .. math:: \hat t_{ic} = \max(t_{ic}, m_c), \qquad
              L = \frac{1}{|V| C} \sum_{i \in V} \sum_c
              [\, s_{ic} > \hat t_{ic} \text{ or } t_{ic} > 0 \,] \, (s_{ic} - \hat t_{ic})^2

    So nothing is asked of a student that is below a target at or below 0. The margin m_c ≤ 0 is the
    mean of the teacher's negative features of a channel: of the batch ('batch'; of all ranks), or
    of the whole of a training, as batch normalisation implies it,
    :func:`margin_of_batch_norm`. A channel that is never negative, as after a ReLU, has margin 0.

    Normaliser: the valid positions V of the whole batch times the channels C. The authors' code
    sums over channels and positions and divides by 1000 times the images: C · P / 1000 of this.

    Args:
        student: Map (N, C, \*S), any number of spatial axes, none included.
        teacher: Map of the same shape; receives no gradient.
        margin: 'batch', a number for all channels or one for each (C,), 0 or below.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> teacher = torch.tensor([[2., -4., -4., -4.]])
        >>> partial_l2(torch.tensor([[1., 1., -2., -9.]]), teacher, -3.)  # (1 + 16 + 1 + 0) / 4
        tensor(4.5000)
    """
    check_features(student, teacher, 'partial L2')
    check_mask(mask, student)
    check_weight(weight, student)
    if isinstance(margin, Tensor) and margin.dim() and margin.shape != student.shape[1:2]:
        raise ValueError(
            f'margin {shape_of(margin)} must be one a channel of student {shape_of(student)}; '
            "mend: a number for each of the teacher's channels, or margin='batch'"
        )
    with no_autocast(student):
        student, teacher = (fill_masked(x, mask) for x in widen(student, teacher.detach()))
        m = _margin(margin, teacher) + _nothing(student, teacher)
        target = teacher.maximum(m.view(-1, *[1] * (student.dim() - 2)))
        # Written so that NaN is not left out; what is, becomes a target that is met.
        left_out = (student <= target) & (teacher <= 0)
        target = torch.where(left_out, student.detach(), target)
        squares = F.mse_loss(student, target, reduction='none')
        return weighted_mean(squares.mean(1), mask, weight)


def margin_of_batch_norm(weight: Tensor, bias: Tensor) -> Tensor:
    r"""Return E[x | x < 0] of each channel of a batch normalisation, x being normal.

    With deviation s = \|weight\| and mean b = bias that is b − s φ(b/s) / Φ(−b/s). The authors'
    code takes −3 s where a channel is negative less often than once in 1000.

    Args:
        weight: Of the teacher's last normalisation before the ReLU, (C,).
        bias: The same.

    Examples:
        >>> margin_of_batch_norm(torch.tensor([1., 2.]), torch.tensor([0., 0.]))  # −s √(2/π)
        tensor([-0.7979, -1.5958])
    """
    deviation, mean = weight.detach().double().abs(), bias.detach().double()
    ratio = mean / deviation.clamp(min=torch.finfo(torch.float64).tiny)
    density = -ratio.square() / 2 - math.log(math.sqrt(2 * math.pi))
    below = mean - deviation * (density - torch.special.log_ndtr(-ratio)).exp()
    # Of a channel that is as good as never negative only rounding would be left.
    return below.where(ratio < 1e3, 0.0).clamp(max=0).to(weight.dtype)


def _margin(margin: str | float | Tensor, teacher: Tensor) -> Tensor:
    if isinstance(margin, str):
        check_choice('margin', margin, (BATCH,))
        return _mean_negative(teacher)
    return margin.to(teacher) if isinstance(margin, Tensor) else teacher.new_full((), margin)


def _mean_negative(teacher: Tensor) -> Tensor:
    """Return the mean of the negative features of each channel, over all ranks; 0 without any."""
    places = place_axes(teacher)
    sums = torch.stack([teacher.clamp(max=0).sum(places), (teacher < 0).sum(places)])
    total, count = sum_over_ranks(sums)
    return total / count.clamp(min=1)


def _nothing(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 0 for each channel, NaN where a side holds −Inf, which would count as agreement."""
    places = place_axes(student)
    return 0 * (student.detach().amin(places) + teacher.amin(places))


@MODELS.register_module()
class PartialL2Loss(Loss):
    r"""The distance of the overhaul of feature distillation (OFD); see :func:`partial_l2`.

    Args:
        margin: 'batch', a number for all channels or a list of one for each, 0 or below, such as
            :func:`margin_of_batch_norm` finds.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: A margin above 0, or not finite.

    Examples:
        >>> student, teacher = torch.tensor([[0., -5.]]), torch.tensor([[-2., -2.]])
        >>> PartialL2Loss(margin=-1.)(student, teacher)  # (1² + 0) / 2
        tensor(0.5000)
    """

    fixed = ('margin',)
    margin: str | Tensor

    def __init__(
        self,
        margin: str | float | Sequence[float] = BATCH,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        if margin == BATCH:
            self.margin = BATCH
            return
        numbers = None if isinstance(margin, str) else torch.as_tensor(margin, dtype=torch.float64)
        if numbers is None or not (numbers.isfinite() & (numbers <= 0)).all():
            raise ValueError(
                f"margin must be 'batch', or finite numbers at or below 0, got {margin!r}. Mend: "
                "margin='batch', or margin_of_batch_norm(bn.weight, bn.bias).tolist()"
            )
        self.register_buffer('margin', numbers.float(), persistent=False)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under mask and weight (N, \*S)."""
        return self.loss_weight * partial_l2(student, teacher, self.margin, mask, weight)
