"""Pixel-wise distillation: the divergence of the class distributions, position by position."""

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_distributions, shape_of
from mmkd.losses.divergence.directions import Direction, check_direction, divergence
from mmkd.losses.functional import (
    count_valid,
    counted,
    fill_masked,
    measure,
    no_autocast,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_positive


def pixel_wise_kl(
    student: Tensor,
    teacher: Tensor,
    tau: float | Tensor = 1.0,
    direction: Direction = 'forward',
    reduction: str = 'mean',
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    standardize: bool = False,
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

    ``standardize`` is Logit Standardization (LSKD, Sun et al., CVPR 2024, arXiv 2403.01427): each
    side's logits become (z − mean) / (std + 1e-7) over the classes of a position, std with C − 1,
    so that the student need not match their size. The authors' code takes the last axis, which of a
    map is its width. Of two classes only their order is left; of equal logits nothing, and they get
    no gradient.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        tau: Temperature; a tensor above 0, 0-d or one number an image (N,), receives gradient, from
            both sides and from τ².
        direction: 'forward' for KL(teacher‖student), 'reverse' for KL(student‖teacher), 'js' for
            the Jensen-Shannon divergence, ('alpha-beta', α, β) for that of ABKD, which is 'forward'
            at (1, 0) and 'reverse' at (0, 1), see :mod:`mmkd.losses.divergence.directions`.
        reduction: 'mean' over the valid positions of the batch, or 'batch_sum': the sum over images
            of each image's mean (N times the mean where nothing is masked).
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.
        standardize: Whether each side's logits are standardised over classes first.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single class, an unknown option, a temperature that
            is not one number, nor one an image.
        TypeError: a mask that is not bool, a weight that is not floating.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[1., 3.]]).log()  # q^t = (1/4, 3/4)
        >>> pixel_wise_kl(torch.zeros(1, 2), teacher)  # 1/4 ln(1/2) + 3/4 ln(3/2)
        tensor(0.1308)
    """
    _check_temperature(tau, len(student))
    check_direction(direction)
    check_choice('reduction', reduction, ('mean', 'batch_sum'))
    check_distributions(student, teacher, 'pixel-wise KL', mask, weight)
    with no_autocast(student):
        counts = counted(mask, weight)
        student, teacher = (fill_masked(x, counts) for x in widen(student, teacher.detach()))
        of_image = tau.to(student.dtype) if isinstance(tau, Tensor) else tau
        tau = of_image
        if isinstance(tau, Tensor) and tau.dim():
            tau = tau.view(-1, *[1] * (student.dim() - 1))
        log_s, log_t = (
            ((_standardized(x) if standardize else x) / tau).log_softmax(1)
            for x in (student, teacher)
        )
        # A position that does not count was filled with equal logits and adds exactly 0.
        each = divergence(log_s, log_t, direction)
        if weight is not None:
            weight = measure(weight, mask, each.dtype)
            each = each * weight.unsqueeze(1)
        per_image = of_image**2 * each.sum(tuple(range(1, each.dim())))
        if reduction == 'batch_sum':
            return (per_image / _total(student, mask, weight, of_image=True)).sum()
        return per_image.sum() / _total(student, mask, weight)


def _check_temperature(tau: float | Tensor, images: int) -> None:
    if not isinstance(tau, Tensor):
        check_positive('tau', tau)
    elif tau.shape not in ((), (images,)) or not tau.is_floating_point():
        raise ValueError(
            f'tau must be one number, or one for each of {images} images, got a tensor '
            f'{shape_of(tau)} of {tau.dtype}; mend: a float tensor, 0-d or (N,)'
        )


def _total(
    student: Tensor, mask: Tensor | None, weight: Tensor | None, of_image: bool = False
) -> int | Tensor:
    """Return what all positions count together, of the batch or of each image; 1 for nothing."""
    own = mask if weight is None else weight
    if own is None:
        return student[0, 0].numel() if of_image else count_valid(student, None)
    total = own.reshape(len(own), -1).sum(1) if of_image else own.sum()
    return total.where(total > 0, total.new_ones(()))


def _standardized(z: Tensor) -> Tensor:
    """Return logits of mean 0 and standard deviation 1 over classes; 0 where they are all equal."""
    mean, std = z.mean(1, keepdim=True), z.std(1, keepdim=True)
    # 1 / 1e-7 of what is but rounded makes a gradient that is no number of float16
    equal = std <= 16 * torch.finfo(z.dtype).eps * mean.abs()
    return (z - mean) / (std + 1e-7).masked_fill(equal, torch.inf)


@MODELS.register_module()
class PixelWiseKLLoss(Loss):
    r"""Pixel-wise distillation of Structured KD; see :func:`pixel_wise_kl`.

    Args:
        tau: Temperature.
        direction: 'forward' for KL(teacher‖student), 'reverse' for KL(student‖teacher), as printed,
            'js' or ('alpha-beta', α, β).
        reduction: 'mean' over positions or the authors' 'batch_sum'.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.
        standardize: Whether each side's logits are standardised over classes first (LSKD).

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
        direction: Direction = 'forward',
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        loss_name: str | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('tau', tau)
        check_direction(direction)
        check_choice('reduction', reduction, ('mean', 'batch_sum'))
        self.tau, self.direction, self.reduction = tau, direction, reduction
        self.standardize = standardize

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) under a bool mask and a weight."""
        return self.loss_weight * pixel_wise_kl(
            student,
            teacher,
            self.tau,
            self.direction,
            self.reduction,
            mask,
            weight,
            self.standardize,
        )
