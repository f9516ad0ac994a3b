"""Pixel-wise distillation: the divergence of the class distributions, position by position."""

import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_logits, check_mask, shape_of
from mmkd.losses.functional import count_valid, fill_masked, no_autocast, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_positive


def pixel_wise_kl(
    student: Tensor,
    teacher: Tensor,
    tau: float = 1.0,
    direction: str = 'forward',
    reduction: str = 'mean',
    mask: Tensor | None = None,
) -> Tensor:
    r"""Kullback-Leibler divergence of the class distributions of student and teacher.

    Paper: Liu et al., Structured Knowledge Distillation for Dense Prediction, CVPR 2019 / TPAMI
    2020, arXiv 1903.04197, eq. 1.

    .. math:: \ell_{pi} = \tau^2 \frac{1}{|V|} \sum_{i \in V} \mathrm{KL}(q_i^t \Vert q_i^s),
              \quad q_i = \mathrm{softmax}(z_i / \tau)

    Normaliser: summed over classes, averaged over the valid positions V of the whole batch.

    The equation prints KL(student‖teacher); ``direction='reverse'`` is that. The default 'forward'
    is KL(teacher‖student), since the authors' code minimises it up to a constant (a cross-entropy
    with the teacher as target, whose minimum is the teacher's entropy instead of 0), since it
    covers every class the teacher holds likely, and since it is what knowledge distillation means
    elsewhere. Their code also divides by the positions of one image only, so that the value grows
    with the batch: ``reduction='batch_sum'``. It knows neither a temperature (tau=1) nor a mask.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        tau: Temperature.
        direction: 'forward' for KL(teacher‖student) or 'reverse' for KL(student‖teacher).
        reduction: 'mean' over the valid positions of the batch, or 'batch_sum': the sum over images
            of each image's mean (N times the mean where nothing is masked).
        mask: Bool (N, \*S), True where a position counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single class, an unknown option.
        TypeError: a mask that is not bool.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[1., 3.]]).log()  # q^t = (1/4, 3/4)
        >>> pixel_wise_kl(torch.zeros(1, 2), teacher)  # 1/4 ln(1/2) + 3/4 ln(3/2)
        tensor(0.1308)
    """
    check_positive('tau', tau)
    check_choice('direction', direction, ('forward', 'reverse'))
    check_choice('reduction', reduction, ('mean', 'batch_sum'))
    check_logits(student, teacher, 'pixel-wise KL')
    if student.shape[1] == 1:
        raise ValueError(
            'softmax over a single class is always 1, so this loss contributes nothing: '
            f'{shape_of(student)}; mend: BinaryKLLoss for a sigmoid head, or give both a '
            'background class, e.g. torch.cat([zeros, logits], 1)'
        )
    check_mask(mask, student)
    with no_autocast(student):
        student, teacher = (fill_masked(x, mask) / tau for x in widen(student, teacher.detach()))
        log_s, log_t = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
        approximation, target = (log_s, log_t) if direction == 'forward' else (log_t, log_s)
        # A masked position was filled with equal logits and adds exactly 0.
        divergence = F.kl_div(approximation, target, reduction='none', log_target=True)
        per_image = divergence.sum(tuple(range(1, divergence.dim())))
        if reduction == 'mean':
            return tau**2 * per_image.sum() / count_valid(student, mask)
        own: int | Tensor = student[0, 0].numel()
        if mask is not None:
            own = mask.reshape(len(mask), -1).sum(1).clamp(min=1)
        return tau**2 * (per_image / own).sum()


@MODELS.register_module()
class PixelWiseKLLoss(Loss):
    r"""Pixel-wise distillation of Structured KD; see :func:`pixel_wise_kl`.

    Args:
        tau: Temperature.
        direction: 'forward' for KL(teacher‖student) or 'reverse' for KL(student‖teacher), as
            printed.
        reduction: 'mean' over positions or the authors' 'batch_sum'.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([1., 3.]).log().view(1, 2, 1, 1).expand(1, 2, 4, 4)
        >>> PixelWiseKLLoss(loss_weight=10.)(torch.zeros(1, 2, 4, 4), teacher)
        tensor(1.3081)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True))

    def __init__(
        self,
        tau: float = 1.0,
        direction: str = 'forward',
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('tau', tau)
        check_choice('direction', direction, ('forward', 'reverse'))
        check_choice('reduction', reduction, ('mean', 'batch_sum'))
        self.tau, self.direction, self.reduction = tau, direction, reduction

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) under a bool mask (N, \*S)."""
        return self.loss_weight * pixel_wise_kl(
            student, teacher, self.tau, self.direction, self.reduction, mask
        )
