"""Variational information distillation: Gaussians around features, whose variances learn."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.base import Loss
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.features.point_wise import check_features
from mmkd.losses.functional import (
    count_valid,
    counted,
    fill_masked,
    measure,
    no_autocast,
    place_axes,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count, check_positive, not_built

LEAST = 1e-5  # variance, of the authors


def variational_information(
    student: Tensor,
    teacher: Tensor,
    variance: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Negative log-likelihood of the teacher's features under Gaussians around the student's.

    Paper: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019, arXiv
    1904.05835: a lower bound of the mutual information, up to a constant.

    .. math:: L = \frac{1}{|V| C} \sum_{i \in V} \sum_c \frac12
              \left[ \frac{(s_{ic} - t_{ic})^2}{v_c} + \ln v_c \right]

    Normaliser: the valid positions V of the whole batch times the channels C. It may be negative,
    and is not 0 at student = teacher: given features it is least where each variance is the mean
    squared difference of its channel.

    Args:
        student: Map (N, C, \*S), any number of spatial axes, none included.
        teacher: Map of the same shape; receives no gradient.
        variance: v (C,), above 0; receives gradient.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> student, teacher = torch.tensor([[1., 2.]]), torch.tensor([[3., 2.]])
        >>> variational_information(student, teacher, torch.tensor([4., 1.]))  # (1 + ln 4) / 4
        tensor(0.5966)
    """
    check_features(student, teacher, 'variational information')
    check_mask(mask, student)
    check_weight(weight, student)
    if variance.shape != student.shape[1:2]:
        raise ValueError(
            f'variance {shape_of(variance)} must be one a channel of student '
            f'{shape_of(student)}; mend: channels={student.shape[1]} (or None)'
        )
    with no_autocast(student):
        counts = counted(mask, weight)
        student, teacher = (fill_masked(x, counts) for x in widen(student, teacher.detach()))
        variance, total = variance.to(student.dtype), count_valid(student, mask)
        squares = F.mse_loss(student, teacher, reduction='none')
        if weight is not None:
            weight = measure(weight, mask, student.dtype)
            squares, total = squares * weight.unsqueeze(1), weight.sum()
            total = total.where(total > 0, total.new_ones(()))
        # By channel first, so that no map is divided by its variances and kept.
        of_channel = squares.sum(place_axes(student)) / total
        value = (of_channel / variance + variance.log()).mean() / 2
        return value if counts is None else value.where(counts.any(), value.new_zeros(()))


@MODELS.register_module()
class VariationalInformationLoss(Loss):
    r"""Variational information distillation (VID); see :func:`variational_information`.

    Variances are softplus(``raw``) + 1e-5, one a channel, as the authors'. ``raw`` is a parameter,
    so that the student's optimizer trains it: mdistiller keeps it out of the optimizer, where VID
    is but a weighted FitNet. Its mean variance is logged (``diagnostics``). The three 1×1
    convolutions of the paper between student and teacher are a connector,
    ``dict(type='auto', kind='conv-relu-conv-relu-conv', bias=False)``.

    Args:
        channels: C of the teacher; None: as the Distiller finds it.
        variance: Where the variances begin.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        RuntimeError: The channels are not known.

    Examples:
        >>> loss = VariationalInformationLoss(channels=3, variance=1.)
        >>> loss(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)).item()  # (1 + ln 1) / 2
        0.5
    """

    fixed = ('variance',)
    raw: nn.Parameter | None

    def __init__(
        self,
        channels: int | None = None,
        variance: float = 5.0,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('variance', variance)
        if variance <= LEAST:
            raise ValueError(f'variance must be above {LEAST}, got {variance!r}. Mend: 5.0')
        self.variance = variance
        self.raw = None
        if channels is not None:
            check_count('channels', channels, 1)
            self._make(channels)

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> str:
        """Make the variances, if the channels were left out.

        Returns:
            What was built, in words; '' for nothing.
        """
        if self.raw is not None:
            return ''
        self._make(teacher.shape[1], teacher.device)
        return f'{teacher.shape[1]} variances, one a channel'

    def variances(self) -> Tensor:
        """Return the variances (C,).

        Raises:
            RuntimeError: The channels are not known.
        """
        if self.raw is None:
            raise not_built('the variances are', 'channels=…')
        return F.softplus(self.raw) + LEAST

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under mask and weight (N, \*S)."""
        with no_autocast(student):
            variance = self.variances()
        self.diagnostics = dict(variance=variance.detach().mean())
        return self.loss_weight * variational_information(student, teacher, variance, mask, weight)

    def _make(self, channels: int, device: torch.device | None = None) -> None:
        start = self.variance - LEAST
        raw = start + math.log(-math.expm1(-start))  # softplus(raw) = start
        self.raw = nn.Parameter(torch.full((channels,), raw, device=device))
