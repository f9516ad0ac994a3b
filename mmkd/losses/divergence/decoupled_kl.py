"""DKD: KL of class distributions, decoupled into the label against the rest and within the rest."""

from torch import Tensor

from mmkd.losses.base import Loss, Map, OfBatch
from mmkd.losses.checks import check_distributions, check_labels, check_one_counts
from mmkd.losses.divergence.split import at_labels, split_kl
from mmkd.losses.functional import (
    no_autocast,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_non_negative, check_positive


def decoupled_kl(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    tau: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    ignore_index: int = 255,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""KL of the label against all other classes, and of the others among themselves.

    Paper: Zhao et al., Decoupled Knowledge Distillation (DKD), CVPR 2022, arXiv 2203.08679.
    b = (p_y, 1 − p_y), and q is the softmax without the label y, both of z/τ. With α = 1 and
    β = 1 − p_y of the teacher it would be plain KL, position by position.

    .. math:: \tau^2 \frac{1}{|V|} \sum_{i \in V}
              \left[ \alpha \mathrm{KL}(b_i^t \Vert b_i^s)
              + \beta \mathrm{KL}(q_i^t \Vert q_i^s) \right]

    Normaliser: summed over classes, averaged over the valid positions V of the whole batch that
    have a label. The authors' code is for one label an image; it subtracts 1000 from the label's
    logit, where this excludes it, and takes the logarithm of sums, which a confident pixel makes
    infinite.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        labels: Classes (N, \*S); a position whose label is none of them is left out.
        tau: Temperature.
        alpha: Of the label against the rest.
        beta: Of the rest.
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
        >>> teacher = torch.tensor([[6., 1., 3.]]).log()  # b = (3/5, 2/5), q = (1/4, 3/4)
        >>> student = torch.tensor([[2., 1., 1.]]).log()  # b = (1/2, 1/2), q = (1/2, 1/2)
        >>> decoupled_kl(student, teacher, torch.tensor([0]), 1., alpha=0., beta=1.)
        tensor(0.1308)
    """
    check_positive('tau', tau)
    check_non_negative('alpha', alpha)
    check_non_negative('beta', beta)
    check_distributions(student, teacher, 'DKD', mask, weight)
    check_labels(labels, student, 'DKD')
    with no_autocast(student):
        valid, counts, target = at_labels(labels, student.shape[1], ignore_index, mask, weight)
        student, teacher = widen(student, teacher.detach())
        of_label, _, of_rest = split_kl(student, teacher, target, tau, counts)
        return tau**2 * weighted_mean(alpha * of_label + beta * of_rest, valid, weight)


@MODELS.register_module()
class DecoupledKLLoss(Loss):
    r"""DKD: the label against the rest, and within the rest; see :func:`decoupled_kl`.

    Args:
        tau: Temperature.
        alpha: Of the label against the rest.
        beta: Of the rest.
        ignore_index: The label of a place of a map that has no class.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> teacher, student = torch.tensor([[3., .5, .5]]).log(), torch.zeros(1, 3)
        >>> DecoupledKLLoss(tau=1.)(student, teacher, torch.tensor([0]))  # 3/4 ln 9/4 + 1/4 ln 3/8
        tensor(0.3630)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True), labels=OfBatch())

    def __init__(
        self,
        tau: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('tau', tau)
        check_non_negative('alpha', alpha)
        check_non_negative('beta', beta)
        check_one_counts('DecoupledKLLoss', alpha=alpha, beta=beta)
        self.tau, self.alpha, self.beta = tau, alpha, beta
        self.ignore_index = ignore_index

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) with labels, mask, weight (N, \*S)."""
        return self.loss_weight * decoupled_kl(
            student,
            teacher,
            labels,
            self.tau,
            self.alpha,
            self.beta,
            self.ignore_index,
            mask,
            weight,
        )
