"""OFA's cross-entropy: soft labels whose label is made more likely than the teacher holds it."""

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map, OfBatch
from mmkd.losses.checks import check_distributions, check_labels
from mmkd.losses.divergence.split import at_labels
from mmkd.losses.functional import (
    fill_masked,
    no_autocast,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_positive


def boosted_target_ce(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    power: float = 1.0,
    tau: float = 1.0,
    ignore_index: int = 255,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy with soft labels, in which the label counts for more and the rest for less.

    Paper: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
    Distillation (OFA-KD), NeurIPS 2023, arXiv 2310.19444. p = softmax(z/τ), y is the label, and ε
    is 1 or above for a teacher of another architecture, whose other classes tell the student less.

    .. math:: -\tau^2 \frac{1}{|V|} \sum_{i \in V} \sum_c \left[
              (p_{ic}^t + 1_{c = y_i})^\varepsilon - 1_{c = y_i} \right] \ln p_{ic}^s

    ε = 1 is plain distillation, as a cross-entropy. Its factors do not add up to 1: that of the
    label goes from 0, where the teacher holds it impossible, to 2^ε − 1.

    Normaliser: summed over classes, averaged over the valid positions V of the whole batch that
    have a label. The authors' code has no τ², with τ = 1 by default, takes the logarithm of a
    softmax, which a certain student makes infinite, and sums over the last axis, which of a map is
    its width.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        labels: Classes (N, \*S); a position whose label is none of them is left out.
        power: ε, above 0.
        tau: Temperature.
        ignore_index: The label of a place of a map that has no class.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single class, a power that is not above 0.
        TypeError: labels that are no integers, a mask that is not bool, a weight that is not
            floating.

    Examples:
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[1., 1.]]).log()
        >>> label = torch.tensor([0])
        >>> boosted_target_ce(student, teacher, label, 2.)  # (1.5² − 1 + 0.5²) ln 2
        tensor(1.0397)
    """
    check_positive('power', power)
    check_positive('tau', tau)
    check_distributions(student, teacher, 'boosted target', mask, weight)
    check_labels(labels, student, 'boosted target')
    with no_autocast(student):
        valid, counts, target = at_labels(labels, student.shape[1], ignore_index, mask, weight)
        student, teacher = (fill_masked(x, counts) / tau for x in widen(student, teacher.detach()))
        log_t = teacher.log_softmax(1)
        # (1 + p)^ε − 1 keeps the digits of a small p
        boosted = torch.expm1(power * log_t.exp().log1p())
        factors = boosted.where(target, (power * log_t).exp())
        return -(tau**2) * weighted_mean((factors * student.log_softmax(1)).sum(1), valid, weight)


@MODELS.register_module()
class BoostedTargetCELoss(Loss):
    r"""OFA's soft cross-entropy, in which the label counts for more; see :func:`boosted_target_ce`.

    Args:
        power: ε, above 0; 1 is plain distillation. The authors' commands have 1.5 for ImageNet and
            1 for CIFAR-100.
        tau: Temperature.
        ignore_index: The label of a place of a map that has no class.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> loss = BoostedTargetCELoss(power=2.)
        >>> loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]))  # 1.5 ln 2
        tensor(1.0397)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True), labels=OfBatch())

    def __init__(
        self,
        power: float = 1.0,
        tau: float = 1.0,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('power', power)
        check_positive('tau', tau)
        self.power, self.tau, self.ignore_index = power, tau, ignore_index

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) with labels, mask, weight (N, \*S)."""
        return self.loss_weight * boosted_target_ce(
            student, teacher, labels, self.power, self.tau, self.ignore_index, mask, weight
        )
