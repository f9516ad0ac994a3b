"""Logit distillation by squared differences: KSANC's backbone loss, before it Ba & Caruana's."""

from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_logits, check_mask
from mmkd.losses.functional import count_valid, fill_masked, no_autocast, widen
from mmkd.registry import MODELS


def logit_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Squared Euclidean distance of the logits of student and teacher.

    Paper: Shu et al., Knowledge Squeezed Adversarial Network Compression (KSANC), arXiv 1904.05100,
    the loss L_b.

    .. math:: L_b = \frac{1}{|V|} \sum_{i \in V} \sum_c (s_{ic} - t_{ic})^2

    Normaliser: summed over classes, averaged over the valid positions V of the whole batch. So it
    grows with the number of classes, as the printed norm does. No temperature and no softmax:
    logits that differ by a constant are apart.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        mask: Bool (N, \*S), True where a position counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: a mask that is not bool.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[0., 4.], [0., 1.]])
        >>> logit_mse(torch.tensor([[1., 2.], [0., 0.]]), teacher)  # (1 + 4 + 0 + 1) / 2
        tensor(3.)
    """
    check_logits(student, teacher, 'logit MSE')
    check_mask(mask, student)
    with no_autocast(student):
        student, teacher = (fill_masked(x, mask) for x in widen(student, teacher.detach()))
        valid = count_valid(student, mask)
        return (student - teacher).square().sum() / valid


@MODELS.register_module()
class LogitMSELoss(Loss):
    r"""Squared distance of logits, as in KSANC; see :func:`logit_mse`.

    Args:
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> LogitMSELoss(loss_weight=.5)(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
        tensor(1.5000)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True))

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) under a bool mask (N, \*S)."""
        return self.loss_weight * logit_mse(student, teacher, mask)
