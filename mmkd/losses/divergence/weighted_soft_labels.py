"""WSLD: soft labels that count less where the student is already surer than the teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.base import Loss, Map, OfBatch
from mmkd.losses.checks import check_distributions, check_labels
from mmkd.losses.divergence.split import known_labels
from mmkd.losses.functional import (
    counted,
    fill_masked,
    labelled,
    no_autocast,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_positive

LEAST = 1e-7  # cross-entropy of the teacher that is divided by, the authors' summand


def weighted_soft_labels(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    tau: float = 2.0,
    ignore_index: int = 255,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy with soft labels, position by position as heavy as the student has to learn.

    Paper: Zhou et al., Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff
    Perspective (WSLD), ICLR 2021, arXiv 2102.00650. p is the softmax of z/τ, and H the
    cross-entropy of the label y at τ = 1. The factor in front receives no gradient.

    .. math:: -\tau^2 \frac{1}{|V|} \sum_{i \in V} \left( 1 - \exp
              \frac{-H_i^s}{H_i^t} \right) \sum_c p_{ic}^t \ln p_{ic}^s, \quad
              H_i = -\ln \mathrm{softmax}(z_i)_{y_i}

    A cross-entropy, not a divergence: it is not 0 where the student equals the teacher, but where
    the student is certain of the label, and nowhere heavier than plain distillation.

    Normaliser: summed over classes, averaged over the valid positions V of the whole batch that
    have a label; the factor is no part of it, as in the authors' code, which is for one label an
    image.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        labels: Classes (N, \*S); a position whose label is none of them is left out.
        tau: Temperature of the soft labels.
        ignore_index: The label of a place of a map that has no class.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single class.
        TypeError: labels that are no integers, a mask that is not bool, a weight that is not
            floating.

    Examples:
        >>> student, teacher = torch.zeros(1, 4), torch.tensor([[1., 1., 1., 1.]]).log()
        >>> label = torch.tensor([0])
        >>> weighted_soft_labels(student, teacher, label, tau=1.)  # (1 − 1/e) ln 4
        tensor(0.8763)
    """
    check_positive('tau', tau)
    check_distributions(student, teacher, 'WSLD', mask, weight)
    check_labels(labels, student, 'WSLD')
    with no_autocast(student):
        valid = labelled(labels, student.shape[1], ignore_index, mask)
        counts = counted(valid, weight)
        student, teacher = widen(student, teacher.detach())
        index = known_labels(labels, valid)
        # each map takes the place of the one that it is made of: few are alive at once
        teacher = fill_masked(teacher, counts)
        theirs = F.nll_loss(teacher.log_softmax(1), index, reduction='none')
        teacher = (teacher / tau).softmax(1)
        student = fill_masked(student, counts)
        own = F.nll_loss(student.detach().log_softmax(1), index, reduction='none')
        student = (student / tau).log_softmax(1)
        share = -torch.expm1(-own / theirs.clamp(min=LEAST))
        return -(tau**2) * weighted_mean(share * (teacher * student).sum(1), valid, weight)


@MODELS.register_module()
class WeightedSoftLabelsLoss(Loss):
    r"""WSLD: soft labels, as heavy as the student has to learn; see :func:`weighted_soft_labels`.

    Args:
        tau: Temperature of the soft labels.
        ignore_index: The label of a place of a map that has no class.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> loss = WeightedSoftLabelsLoss(tau=1., loss_weight=10.)
        >>> loss(torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([0]))  # 10 (1 − 1/e) ln 4
        tensor(8.7631)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True), labels=OfBatch())

    def __init__(
        self,
        tau: float = 2.0,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('tau', tau)
        self.tau, self.ignore_index = tau, ignore_index

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) with labels, mask, weight (N, \*S)."""
        return self.loss_weight * weighted_soft_labels(
            student, teacher, labels, self.tau, self.ignore_index, mask, weight
        )
