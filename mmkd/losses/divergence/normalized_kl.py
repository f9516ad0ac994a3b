"""NKD: soft cross-entropy of the label, and of all other classes after they are normalised."""

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map, OfBatch
from mmkd.losses.checks import check_distributions, check_labels
from mmkd.losses.divergence.split import at_labels, known_labels
from mmkd.losses.functional import (
    fill_masked,
    no_autocast,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_non_negative, check_positive


def normalized_kl(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    gamma: float = 1.5,
    tau: float = 1.0,
    ignore_index: int = 255,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of the label, as sure as the teacher is, and of the others among themselves.

    Paper: Yang et al., From Knowledge Distillation to Self-Knowledge Distillation (NKD), ICCV 2023,
    arXiv 2303.13005. p = softmax(z), and q is the softmax of z/τ without the label y.

    .. math:: -\frac{1}{|V|} \sum_{i \in V} \left[ p_{iy}^t \ln p_{iy}^s
              + \gamma \tau^2 \sum_{c \ne y} q_{ic}^t \ln q_{ic}^s \right]

    A cross-entropy, not a divergence: its second term is least, and not 0, where the student equals
    the teacher, with the gradient of KL(q^t‖q^s); its first one falls until the label is certain.

    Normaliser: summed over classes, averaged over the valid positions V of the whole batch that
    have a label.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        labels: Classes (N, \*S); a position whose label is none of them is left out.
        gamma: Of the other classes.
        tau: Temperature of the other classes.
        ignore_index: The label of a place of a map that has no class.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single class, a factor below 0.
        TypeError: labels that are no integers, a mask that is not bool, a weight that is not
            floating.

    Examples:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 4), torch.tensor([[3., 1., 1., 1.]]).log()
        >>> normalized_kl(student, teacher, torch.tensor([0]), gamma=1.)  # 1/2 ln 4 + ln 3
        tensor(1.7918)
    """
    check_positive('tau', tau)
    check_non_negative('gamma', gamma)
    check_distributions(student, teacher, 'NKD', mask, weight)
    check_labels(labels, student, 'NKD')
    with no_autocast(student):
        valid, counts, target = at_labels(labels, student.shape[1], ignore_index, mask, weight)
        student, teacher = widen(student, teacher.detach())
        label = known_labels(labels, valid).unsqueeze(1)
        (log_s, rest_s), (log_t, rest_t) = (
            _label_and_rest(fill_masked(x, counts), label, target, tau) for x in (student, teacher)
        )
        # 0 · −∞ at the label
        of_rest = (rest_t.exp_() * rest_s.masked_fill(target, 0)).sum(1)
        value = log_t.exp() * log_s + gamma * tau**2 * of_rest
        return weighted_mean(-value, valid, weight)


def _label_and_rest(z: Tensor, label: Tensor, target: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Return ln p of the label (N, …), and ln q of all classes (N, C, …), −∞ at the label."""
    of_label = z.log_softmax(1).gather(1, label).squeeze(1)
    # a mask, and not 1000 that is subtracted
    return of_label, (z / tau).masked_fill_(target, -torch.inf).log_softmax(1)


@MODELS.register_module()
class NormalizedKLLoss(Loss):
    r"""NKD: soft cross-entropy of the label and of the normalised rest; see :func:`normalized_kl`.

    Args:
        gamma: Of the other classes.
        tau: Temperature of the other classes.
        ignore_index: The label of a place of a map that has no class.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[3., 1., 1., 1.]]).log()
        >>> NormalizedKLLoss(gamma=0.)(torch.zeros(1, 4), teacher, torch.tensor([0]))  # 1/2 ln 4
        tensor(0.6931)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True), labels=OfBatch())

    def __init__(
        self,
        gamma: float = 1.5,
        tau: float = 1.0,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_non_negative('gamma', gamma)
        check_positive('tau', tau)
        self.gamma, self.tau, self.ignore_index = gamma, tau, ignore_index

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) with labels, mask, weight (N, \*S)."""
        return self.loss_weight * normalized_kl(
            student, teacher, labels, self.gamma, self.tau, self.ignore_index, mask, weight
        )
