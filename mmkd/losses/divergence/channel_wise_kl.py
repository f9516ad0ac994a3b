"""Channel-wise distillation: the divergence of where each channel is active."""

from torch import Tensor

from mmkd.losses.base import Loss
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.functional import counted, fill_masked, measure, no_autocast, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count, check_positive


def channel_wise_kl(
    student: Tensor,
    teacher: Tensor,
    tau: float = 4.0,
    groups: int | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Divergence of the distributions over positions that each channel of a map makes.

    Paper: Shu et al., Channel-wise Knowledge Distillation for Dense Prediction (CWD), ICCV 2021,
    arXiv 2011.13256. ``groups`` are those of the SegDistill repository (CGD): one distribution over
    the channels of a group and all positions. It is pixel-wise KL with channels and positions
    exchanged.

    .. math:: \tau^2 \frac{1}{N G} \sum_{n, g} \sum_{i \in V} \varphi^t_{ngi}
              \ln \frac{\varphi^t_{ngi}}{\varphi^s_{ngi}},
              \quad \varphi_{ng} = \mathrm{softmax}_{i \in V}(x_{ng} / \tau)

    Normaliser: summed over positions, averaged over images and channels (groups), as the authors'
    code does; images without a valid position V are left out. A position that does not count is
    excluded from the softmax, which the authors' code cannot. A weight w is the measure of the
    softmax, φ ∝ w exp(x/τ): a position of weight 2 counts as two of them, and the unit of w is
    arbitrary in each image. SegDistill's code lacks τ² and pads the last group.

    Args:
        student: Logits or features (N, C, \*S), any number of spatial axes, none included.
        teacher: A map of the same shape; receives no gradient.
        tau: Temperature.
        groups: How many groups of consecutive channels share a distribution, of sizes that differ
            by one at most, larger ones first; None: each channel has its own.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, more groups than channels.
        TypeError: a mask that is not bool, a weight that is not floating.

    Examples:
        >>> import torch
        >>> teacher = 4 * torch.tensor([[[1., 3.]]]).log()  # φ^t = (1/4, 3/4)
        >>> channel_wise_kl(torch.zeros(1, 1, 2), teacher)  # 16 (1/4 ln(1/2) + 3/4 ln(3/2))
        tensor(2.0930)
    """
    check_positive('tau', tau)
    _check_maps(student, teacher, groups)
    check_mask(mask, student)
    check_weight(weight, student)
    with no_autocast(student):
        student, teacher = widen(student, teacher.detach())
        valid = counted(mask, weight)
        shape = (*student.shape[:2], -1)
        student, teacher = (fill_masked(x, valid).reshape(shape) for x in (student, teacher))
        groups = student.shape[1] if groups is None else groups
        if valid is None:
            total = _sum_of_groups(student, teacher, groups, tau, None, None)
            return tau**2 * total / (len(student) * groups)
        own = valid.to(student.dtype) if weight is None else measure(weight, mask, student.dtype)
        own, valid = (x.reshape(len(student), 1, -1) for x in (own, valid))
        alive = valid.any(2, keepdim=True)
        # −∞ where nothing counts; an image without a position gets equal numbers instead.
        log_measure = own.where(alive, own.new_ones(())).log()
        total = _sum_of_groups(student, teacher, groups, tau, log_measure, valid)
        return tau**2 * total / (alive.sum().clamp(min=1) * groups)


def _sum_of_groups(
    student: Tensor,
    teacher: Tensor,
    groups: int,
    tau: float,
    log_measure: Tensor | None,
    valid: Tensor | None,
) -> Tensor:
    """Return the sum of the divergences of all groups of maps (N, C, P), all of its images."""
    size, larger = divmod(student.shape[1], groups)
    split = larger * (size + 1)  # the channels of larger groups, and the others
    total = student.new_zeros(())
    for each, part in ((size + 1, slice(split)), (size, slice(split, None))):
        if student[0, part].numel() == 0:
            continue
        log_s, log_t = (
            _log_softmax(x[:, part], each, tau, log_measure) for x in (student, teacher)
        )
        gap = log_t - log_s
        if valid is not None:  # −∞ less −∞
            gap = gap.where(valid.repeat(1, 1, each), gap.new_zeros(()))
        # φ_s − φ_t sums to 0, and takes away what rounded logarithms add to a small value.
        p_t = log_t.exp_()
        total = total + (log_s.exp() - p_t).addcmul_(p_t, gap).sum()
    return total


def _log_softmax(x: Tensor, each: int, tau: float, log_measure: Tensor | None) -> Tensor:
    """Return the logarithms of the distributions of maps (N, C, P) in groups of ``each``."""
    x = x / tau if log_measure is None else x / tau + log_measure
    return x.reshape(len(x), -1, each * x.shape[2]).log_softmax(2)


def _check_maps(student: Tensor, teacher: Tensor, groups: int | None) -> None:
    if student.dim() < 2 or student.shape != teacher.shape:
        raise ValueError(
            f'channel-wise KL needs maps (N, C, *S) of one shape, got student {shape_of(student)}, '
            f"teacher {shape_of(teacher)}; mend: connectors=dict(student='auto') for features, "
            "connectors=dict(teacher='auto') for logits"
        )
    if groups is not None:
        check_count('groups', groups, 1)
        if groups > student.shape[1]:
            raise ValueError(
                f'groups must be at most the {student.shape[1]} channels of student '
                f'{shape_of(student)}, got {groups}; mend: groups=None for one each'
            )


@MODELS.register_module()
class ChannelWiseKLLoss(Loss):
    r"""Channel-wise distillation, of channels or of groups of them; see :func:`channel_wise_kl`.

    Args:
        tau: Temperature.
        groups: How many groups of consecutive channels share a distribution; None: each channel
            has its own.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([1., 3.]).log().view(1, 1, 1, 2).expand(2, 5, 1, 2)
        >>> ChannelWiseKLLoss(tau=1., loss_weight=3.)(torch.zeros(2, 5, 1, 2), teacher)
        tensor(0.3924)
    """

    def __init__(
        self,
        tau: float = 4.0,
        groups: int | None = None,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('tau', tau)
        if groups is not None:
            check_count('groups', groups, 1)
        self.tau, self.groups = tau, groups

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under a bool mask and a weight (N, \*S)."""
        return self.loss_weight * channel_wise_kl(
            student, teacher, self.tau, self.groups, mask, weight
        )
