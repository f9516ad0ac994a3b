"""Direct alignment of feature maps: the absolute difference, which AFD is compared with."""

from torch import Tensor

from mmkd.losses.base import Loss
from mmkd.losses.features.point_wise import point_wise
from mmkd.registry import MODELS


def feature_l1(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    r"""Mean absolute difference of two feature maps.

    Paper: the direct alignment ("L1+KD") that Chung et al., Feature-map-level Online Adversarial
    Knowledge Distillation (AFD), ICML 2020, arXiv 2002.01775, is compared with. Its normaliser
    could not be read.

    .. math:: L = \frac{1}{|V| C} \sum_{i \in V} \sum_c |s_{ic} - t_{ic}|

    Normaliser: the valid positions V of the whole batch times the channels C. It is
    :func:`mmkd.losses.features.feature_matching.feature_matching` of penalty 'l1'.

    Args:
        student: Map (N, C, \*S), any number of spatial axes, none included.
        teacher: Map of the same shape; receives no gradient.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[0., 4.], [0., 1.]])
        >>> feature_l1(torch.tensor([[1., 2.], [0., 0.]]), teacher)  # (1 + 2 + 0 + 1) / 4
        tensor(1.)
    """
    return point_wise(student, teacher, None, 'l1', mask, weight, 'feature L1')


@MODELS.register_module()
class FeatureL1Loss(Loss):
    r"""Mean absolute difference of feature maps; see :func:`feature_l1`.

    Args:
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> FeatureL1Loss(loss_weight=.5)(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
        tensor(0.5000)
    """

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under mask and weight (N, \*S)."""
        return self.loss_weight * feature_l1(student, teacher, mask, weight)
