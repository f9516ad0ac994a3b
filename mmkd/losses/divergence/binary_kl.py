"""Distillation of sigmoid heads: the divergence of a yes or no for each class and position."""

import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_logits, check_mask
from mmkd.losses.functional import count_valid, fill_masked, no_autocast, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import check_positive


def binary_kl(
    student: Tensor, teacher: Tensor, tau: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    r"""Divergence of the class-wise Bernoulli distributions of student and teacher.

    The pixel-wise term of Structured KD (Liu et al., TPAMI 2020, arXiv 1903.04197, eq. 1) for
    detectors, whose classes are each a sigmoid of its own (FCOS, RetinaNet, GFL), where a softmax
    would make them compete. Its printed equation is about softmax alone; KL(teacher‖student) as in
    :func:`mmkd.losses.divergence.pixel_wise_kl`.

    .. math:: \tau^2 \frac{1}{|V|} \sum_{i \in V} \sum_c
              \left[ q^t_{ic} \ln \frac{q^t_{ic}}{q^s_{ic}}
              + (1 - q^t_{ic}) \ln \frac{1 - q^t_{ic}}{1 - q^s_{ic}} \right],
              \quad q = \sigma(z / \tau)

    Normaliser: summed over classes, averaged over the valid positions V of the whole batch. Several
    anchors a position are channels, so they are summed as classes are.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        tau: Temperature.
        mask: Bool (N, \*S), True where a position counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: a mask that is not bool.

    Examples:
        >>> import torch
        >>> binary_kl(torch.zeros(1, 1), torch.tensor([[3.]]).log())  # 3/4 ln(3/2) + 1/4 ln(1/2)
        tensor(0.1308)
    """
    check_positive('tau', tau)
    check_logits(student, teacher, 'binary KL')
    check_mask(mask, student)
    with no_autocast(student):
        student, teacher = (fill_masked(x, mask) / tau for x in widen(student, teacher.detach()))
        valid = count_valid(student, mask)
        return tau**2 * bernoulli_kl(student, teacher).sum() / valid


def bernoulli_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher‖student) of a yes or no, logit by logit.

    >>> import torch
    >>> bernoulli_kl(torch.zeros(1), torch.tensor([3.]).log())
    tensor([0.1308])
    """
    # From logits on both sides a confident class loses no digits, and equal ones add exactly 0.
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return yes + no


@MODELS.register_module()
class BinaryKLLoss(Loss):
    r"""Distillation of sigmoid heads; see :func:`binary_kl`.

    Args:
        tau: Temperature.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 3.).log()
        >>> BinaryKLLoss(loss_weight=10.)(student, teacher)
        tensor(2.6162)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True))

    def __init__(
        self, tau: float = 1.0, loss_weight: float = 1.0, loss_name: str | None = None
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('tau', tau)
        self.tau = tau

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) under a bool mask (N, \*S)."""
        return self.loss_weight * binary_kl(student, teacher, self.tau, mask)
