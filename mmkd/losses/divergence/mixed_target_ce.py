"""Cross-entropy with the labels, with what a teacher says, or with a mix of the two."""

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
from mmkd.utils.checks import check_share


def mixed_target_ce(
    student: Tensor,
    labels: Tensor,
    teacher: Tensor | None = None,
    alpha: float = 0.5,
    ignore_index: int = 255,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy with a target that is the label to a share 1 − α, and the teacher's to α.

    Paper: Kim et al., Self-Knowledge Distillation with Progressive Refinement of Targets (PS-KD),
    ICCV 2021, where the teacher is the student of the epoch before, and α rises. p = softmax(z).

    .. math:: -\frac{1}{|V|} \sum_{i \in V} \sum_c
              \left[ (1 - \alpha)\, 1_{c = y_i} + \alpha\, p_{ic}^t \right] \ln p_{ic}^s

    Without a teacher, or with α = 0, it is the cross-entropy of the labels. It is least, and not 0,
    where the student says what the target says.

    Normaliser: summed over classes, averaged over the valid positions V of the whole batch that
    have a label.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        labels: Classes (N, \*S); a position whose label is none of them is left out.
        teacher: Logits of the student's shape; receives no gradient. None: labels alone.
        alpha: Share of the teacher, from 0 to 1.
        ignore_index: The label of a place of a map that has no class.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single class, a share that is not from 0 to 1.
        TypeError: labels that are no integers, a mask that is not bool, a weight that is not
            floating.

    Examples:
        >>> import torch
        >>> student, teacher = torch.tensor([[3., 1.]]).log(), torch.zeros(1, 2)
        >>> label = torch.tensor([0])
        >>> mixed_target_ce(student, label)  # −ln 3/4
        tensor(0.2877)
        >>> mixed_target_ce(student, label, teacher, 0.5)  # −3/4 ln 3/4 − 1/4 ln 1/4
        tensor(0.5623)
    """
    check_share('alpha', alpha)
    check_distributions(student, student if teacher is None else teacher, 'mixed', mask, weight)
    check_labels(labels, student, 'mixed target')
    with no_autocast(student):
        valid = labelled(labels, student.shape[1], ignore_index, mask)
        counts = counted(valid, weight)
        log_s = fill_masked(widen(student)[0], counts).log_softmax(1)
        each = F.nll_loss(log_s, known_labels(labels, valid), reduction='none')
        if teacher is not None:
            log_s, soft = widen(log_s, teacher.detach())
            soft = fill_masked(soft, counts).softmax(1)
            each = (1 - alpha) * each - alpha * (soft * log_s).sum(1)
        return weighted_mean(each, valid, weight)


@MODELS.register_module()
class MixedTargetCELoss(Loss):
    r"""Cross-entropy with labels, a teacher, or a mix of them; see :func:`mixed_target_ce`.

    Without a teacher it is the cross-entropy of the labels, for what has no loss of its own.

    Args:
        alpha: Share of the teacher, from 0 to 1; a schedule may change it.
        ignore_index: The label of a place of a map that has no class.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> MixedTargetCELoss()(torch.zeros(1, 2), torch.tensor([0]))  # ln 2
        tensor(0.6931)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True), labels=OfBatch())

    def __init__(
        self,
        alpha: float = 0.5,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_share('alpha', alpha)
        self.alpha, self.ignore_index = alpha, ignore_index

    def forward(
        self,
        student: Tensor,
        labels: Tensor,
        teacher: Tensor | None = None,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) with labels, mask, weight (N, \*S)."""
        return self.loss_weight * mixed_target_ce(
            student, labels, teacher, self.alpha, self.ignore_index, mask, weight
        )
