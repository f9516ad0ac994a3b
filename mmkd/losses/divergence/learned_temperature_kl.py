"""CTKD: a temperature that learns to make distillation harder, more and more of it."""

from typing import Any

import torch
from torch import Tensor, nn

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_distributions
from mmkd.losses.divergence.directions import Direction, check_direction
from mmkd.losses.divergence.instance_temperature import InstanceTemperature
from mmkd.losses.divergence.pixel_wise_kl import pixel_wise_kl
from mmkd.losses.functional import no_autocast, reverse_gradient, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import (
    check_choice,
    check_count,
    check_non_negative,
    check_positive,
    not_built,
)

KINDS = ('global', 'instance')


@MODELS.register_module()
class LearnedTemperatureKLLoss(Loss):
    r"""Pixel-wise KL whose temperature is learned, against the student (CTKD).

    Paper: Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023, arXiv
    2211.16231. The value is that of :func:`mmkd.losses.divergence.pixel_wise_kl` at

    .. math:: \tau = \tau_0 + s \, \sigma(\theta)

    of one number θ for all, the parameter ``raw`` (``kind='global'``), or of one for each image,
    which two layers read off both predictions, their means over an image's positions
    (``kind='instance'``; :mod:`mmkd.losses.divergence.instance_temperature`). Each image's part of
    the value has its own τ². τ² learns too. What says θ is trained by the student's optimizer, the
    checkpoint holds it, an exported student does not. The gradient of θ is turned round and
    multiplied by ``reversal``, so that the step which makes the loss smaller in the student makes
    it larger in the temperature. The curriculum is a schedule of that number,
    ``target='<objective>.loss.reversal'``, from next to nothing to 1 over the first part of a run.
    In the authors' code the sign stands in the schedule, from 0 to −1, and the layer called a
    reversal multiplies by it.

    The temperature, of images its mean, is logged (``diagnostics``). A weight decay on ``raw``
    draws it to the middle of its range, as in the authors' runs.

    Args:
        lowest: τ₀, which the temperature stays above.
        span: s; it stays below τ₀ + s.
        raw: Where θ begins; in the port to mdistiller 0 of 'instance'.
        reversal: Factor of the reversed gradient, 0 or above; 0: the temperature stays.
        direction: As of :class:`mmkd.losses.PixelWiseKLLoss`.
        standardize: Whether each side's logits are standardised over classes first (LSKD).
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.
        kind: 'global' or 'instance'.
        classes: Of the members, for 'instance'; None: as the Distiller finds it.
        front: Of how many of the teacher's likeliest classes 'instance' reads probabilities.
        width: Of its hidden layer.

    Raises:
        ValueError: A number out of its range, an unknown direction or kind.
        RuntimeError: The classes are not known.

    Examples:
        >>> teacher = torch.tensor([[1., 3.]]).log()
        >>> loss = LearnedTemperatureKLLoss(lowest=1., span=2., raw=0.)  # τ = 2
        >>> loss(torch.zeros(1, 2), teacher), loss.diagnostics
        (tensor(0.1454, grad_fn=<MulBackward0>), {'temperature': tensor(2.)})
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True))
    fixed = ('classes', 'front', 'width')
    raw: nn.Parameter | None
    instance: InstanceTemperature | None

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
        kind: str = 'global',
        classes: int | None = None,
        front: int = 100,
        width: int = 256,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_choice('kind', kind, KINDS)
        check_count('front', front, 1)
        check_count('width', width, 1)
        check_positive('lowest', lowest)
        check_positive('span', span)
        check_non_negative('reversal', reversal)
        check_direction(direction)
        self.lowest, self.span, self.reversal = lowest, span, reversal
        self.direction, self.standardize = direction, standardize
        self.kind, self.front, self.width, self._start = kind, front, width, float(raw)
        self.raw = nn.Parameter(torch.tensor(self._start)) if kind == 'global' else None
        self.instance = None
        if kind == 'instance' and classes is not None:
            check_count('classes', classes, 2)
            self._make(classes)

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> str:
        """Make the layers that say an image's temperature, if the classes were left out.

        Returns:
            What was built, in words; '' for nothing.
        """
        if self.kind == 'global' or self.instance is not None:
            return ''
        self._make(student.shape[1], student.device)
        return f'layers that say the temperature of an image of {student.shape[1]} classes'

    def temperature(self, *reads: Tensor | None) -> Tensor:
        """Return the temperature, 0-d or (N,), whose gradient is reversed.

        Args:
            reads: What the loss reads, in its order; 'global' needs none.

        Raises:
            RuntimeError: The classes are not known.
        """
        theta = self._theta(*reads)
        with no_autocast(theta):
            (theta,) = widen(reverse_gradient(theta, self.reversal))
            return self.lowest + self.span * theta.sigmoid()

    def _theta(self, *reads: Any) -> Tensor:
        if self.raw is not None:
            return self.raw
        if self.instance is None:
            raise not_built('the layers that say a temperature are', 'classes=…')
        return self.instance(*reads)

    def _make(self, classes: int, device: torch.device | None = None) -> None:
        made = InstanceTemperature(classes, self.front, self.width, self._start)
        self.instance = made.to(device)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) under a bool mask and a weight."""
        check_distributions(student, teacher, 'CTKD', mask, weight)
        tau = self.temperature(student, teacher, mask, weight)
        self.diagnostics = dict(temperature=tau.detach().mean())
        return self.loss_weight * pixel_wise_kl(
            student,
            teacher,
            tau,
            self.direction,
            mask=mask,
            weight=weight,
            standardize=self.standardize,
        )
