"""Activation boundaries (AB): the student's neurons are on where the teacher's are."""

import torch
from torch import Tensor

from mmkd.losses.base import Loss
from mmkd.losses.checks import check_mask, check_weight
from mmkd.losses.features.point_wise import check_features
from mmkd.losses.functional import (
    counted,
    fill_masked,
    infinite_to_nan,
    no_autocast,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_positive


def activation_boundary(
    student: Tensor,
    teacher: Tensor,
    margin: float = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared hinge of the student's features by the sign of the teacher's.

    Paper: Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
    Neurons, AAAI 2019, arXiv 1811.03233, its alternative loss. Features are those before a ReLU.

    .. math:: L = \frac{1}{|V| C} \sum_{i \in V} \sum_c \max(0,\, m - \sigma_{ic}\, s_{ic})^2,
              \qquad \sigma_{ic} = 1 \text{ if } t_{ic} > 0 \text{ else } -1

    So (s + m)² where t ≤ 0 and s > −m, (s − m)² where t > 0 and s ≤ m, and nothing is asked where
    the student is on the teacher's side by the margin. How large the teacher's features are does
    not count.

    Normaliser: the valid positions V of the whole batch times the channels C. The authors' code
    sums over channels and positions and multiplies by 3 / 1000 over the images: 3 C · P / 1000 of
    this.

    Args:
        student: Map (N, C, \*S), any number of spatial axes, none included.
        teacher: Map of the same shape; receives no gradient.
        margin: m, above 0.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a margin that is not above 0.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> teacher = torch.tensor([[9., 9., -.1, -.1]])
        >>> activation_boundary(torch.tensor([[1., -1., 0., -5.]]), teacher)  # (0 + 4 + 1 + 0) / 4
        tensor(1.2500)
    """
    check_positive('margin', margin)
    check_features(student, teacher, 'activation boundary')
    check_mask(mask, student)
    check_weight(weight, student)
    with no_autocast(student):
        # Beyond the margin Inf would count as agreement.
        counts = counted(mask, weight)
        student, teacher = (
            infinite_to_nan(fill_masked(x, counts)) for x in widen(student, teacher.detach())
        )
        side = torch.where(teacher > 0, 1.0, -1.0) + 0 * teacher  # NaN stays NaN
        missing = (margin - side * student).clamp(min=0)
        return weighted_mean(missing.square().mean(1), mask, weight)


@MODELS.register_module()
class ActivationBoundaryLoss(Loss):
    r"""The alternative loss of activation boundaries (AB); see :func:`activation_boundary`.

    Args:
        margin: By how much the student's features must be on the teacher's side of 0, above 0.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> student, teacher = torch.tensor([[0., -5.]]), torch.tensor([[3., -2.]])
        >>> ActivationBoundaryLoss(margin=2.)(student, teacher)  # (2² + 0) / 2
        tensor(2.)
    """

    def __init__(
        self, margin: float = 1.0, loss_weight: float = 1.0, loss_name: str | None = None
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('margin', margin)
        self.margin = margin

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under mask and weight (N, \*S)."""
        return self.loss_weight * activation_boundary(student, teacher, self.margin, mask, weight)
