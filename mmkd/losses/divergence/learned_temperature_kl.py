"""CTKD: a temperature that learns to make distillation harder, more and more of it."""

import torch
from torch import Tensor, nn

from mmkd.losses.base import Loss, Map
from mmkd.losses.divergence.directions import Direction, check_direction
from mmkd.losses.divergence.pixel_wise_kl import pixel_wise_kl
from mmkd.losses.functional import no_autocast, reverse_gradient, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import check_non_negative, check_positive


@MODELS.register_module()
class LearnedTemperatureKLLoss(Loss):
    r"""Pixel-wise KL whose temperature is learned, against the student (CTKD).

    Paper: Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023, arXiv
    2211.16231. The value is that of :func:`mmkd.losses.divergence.pixel_wise_kl` at

    .. math:: \tau = \tau_0 + s \, \sigma(\theta)

    of one number θ for all (the paper's global temperature; that of each instance is not here).
    τ² learns too. θ is a parameter of the loss, ``raw``: the student's optimizer trains it, the
    checkpoint holds it, an exported student does not. Its gradient is turned round and multiplied
    by ``reversal``, so that the step which makes the loss smaller in the student makes it larger in
    the temperature. The curriculum is a schedule of that number,
    ``target='<objective>.loss.reversal'``, from next to nothing to 1 over the first part of a run.
    In the authors' code the sign stands in the schedule, from 0 to −1, and the layer called a
    reversal multiplies by it.

    The temperature is logged (``diagnostics``). A weight decay on ``raw`` draws it to the middle of
    its range, as in the authors' runs.

    Args:
        lowest: τ₀, which the temperature stays above.
        span: s; it stays below τ₀ + s.
        raw: Where θ begins.
        reversal: Factor of the reversed gradient, 0 or above; 0: the temperature stays.
        direction: As of :class:`mmkd.losses.PixelWiseKLLoss`.
        standardize: Whether each side's logits are standardised over classes first (LSKD).
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: A number out of its range, an unknown direction.

    Examples:
        >>> teacher = torch.tensor([[1., 3.]]).log()
        >>> loss = LearnedTemperatureKLLoss(lowest=1., span=2., raw=0.)  # τ = 2
        >>> loss(torch.zeros(1, 2), teacher), loss.diagnostics
        (tensor(0.1454, grad_fn=<MulBackward0>), {'temperature': tensor(2.)})
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True))

    def __init__(
        self,
        lowest: float = 1.0,
        span: float = 20.0,
        raw: float = 1.0,
        reversal: float = 1.0,
        direction: Direction = 'forward',
        standardize: bool = False,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('lowest', lowest)
        check_positive('span', span)
        check_non_negative('reversal', reversal)
        check_direction(direction)
        self.lowest, self.span, self.reversal = lowest, span, reversal
        self.direction, self.standardize = direction, standardize
        self.raw = nn.Parameter(torch.tensor(float(raw)))

    def temperature(self) -> Tensor:
        """Return the temperature, 0-d, whose gradient is reversed."""
        with no_autocast(self.raw):
            (raw,) = widen(reverse_gradient(self.raw, self.reversal))
            return self.lowest + self.span * raw.sigmoid()

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) under a bool mask and a weight."""
        tau = self.temperature()
        self.diagnostics = dict(temperature=tau.detach())
        return self.loss_weight * pixel_wise_kl(
            student,
            teacher,
            tau,
            self.direction,
            mask=mask,
            weight=weight,
            standardize=self.standardize,
        )
