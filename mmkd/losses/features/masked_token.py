"""Features under masks that learned tokens find: where the teacher's task reads them."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.exceptions import NotFittedError
from torch import Tensor

from mmkd.losses.base import Map
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.features.mask_tokens import MaskTokens, TokenFitter, TokenOptions
from mmkd.losses.features.point_wise import check_features, cost
from mmkd.losses.fitted.contract import FittedLoss
from mmkd.losses.fitted.source import Source
from mmkd.losses.functional import (
    counted,
    fill_masked,
    masked_mean,
    measure_of,
    no_autocast,
    softmax_of_measure,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_count, not_built

POWERS = (1, 2)


def masked_token(
    student: Tensor,
    teacher: Tensor,
    tokens: Tensor,
    power: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared difference of features where each of K tokens looks.

    Paper: Huang et al., Masked Distillation with Receptive Tokens (MasKD), ICLR 2023,
    arXiv 2205.14589.

    .. math:: w_{nki} = \sigma(m_k \cdot F^t_{ni}), \qquad
              L = \frac{1}{2 |N| K} \sum_{n, k}
              \frac{\sum_i w_{nki}^q \, \frac{1}{C} \sum_c (F^s_{nci} - F^t_{nci})^2}
              {\sum_i w_{nki}}

    Normaliser: a weighted mean over the places of an image for each token, then a mean over tokens,
    channels and images, so that under q = 1 a token of one weight everywhere gives half the mean
    square. The authors' code multiplies both features by the weight before it squares their
    difference, q = 2, so that tokens of small weights give small values; it adds 1e-5 to the sum of
    weights, here nothing, since they are normalised as logarithms.

    Images N without a valid place are left out. The weight w′ of a place stands beside the tokens'
    in numerator and denominator.

    Args:
        student: Features (N, C, \*S).
        teacher: The same; receives no gradient.
        tokens: m (K, C); receive no gradient.
        power: q, 1 or 2.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, another power.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> student, teacher = torch.tensor([[[1., 3.]]]), torch.tensor([[[0., 0.]]])
        >>> masked_token(student, teacher, torch.tensor([[7.]]))  # all alike: ½ (1 + 9) / 2
        tensor(2.5000)
        >>> teacher = torch.tensor([[[0., 20.]]])  # σ = 1/2 and 1: ½ (1 · 1/2 + 17² · 1) / 1.5
        >>> masked_token(student, teacher, torch.tensor([[1.]]))
        tensor(96.5000)
    """
    check_features(student, teacher, 'masked tokens')
    check_mask(mask, student)
    check_weight(weight, student)
    check_choice('power', power, POWERS)
    if tokens.dim() != 2 or tokens.shape[1] != student.shape[1]:
        raise ValueError(
            f'tokens {shape_of(tokens)} must be (K, C) of the C channels of teacher '
            f'{shape_of(teacher)}; mend: the tap that they were fitted to'
        )
    counts = counted(mask, weight)
    with no_autocast(student):
        student, teacher = (fill_masked(x, counts) for x in widen(student, teacher.detach()))
        squares = cost(student, teacher, 'l2').reshape(len(student), 1, -1)
        shares = _shares(teacher, tokens.detach().to(teacher), power, counts, weight)
        images = (shares * squares).sum(2).mean(1) / 2
        return masked_mean(
            images, None if counts is None else counts.reshape(len(images), -1).any(1)
        )


def _shares(
    teacher: Tensor, tokens: Tensor, power: int, counts: Tensor | None, weight: Tensor | None
) -> Tensor:
    """Return w^q / Σ w (N, K, P)."""
    # As logarithms: the sum of weights of a token that looks nowhere would be 0.
    logs = F.logsigmoid(tokens @ teacher.reshape(*teacher.shape[:2], -1))
    own = measure_of(teacher, counts, None if weight is None else weight.detach())
    if own is None:
        shares = logs.softmax(2)
    else:
        shares = softmax_of_measure(logs, own.reshape(len(own), 1, -1))
    return shares if power == 1 else shares * logs.exp()


@MODELS.register_module()
class MaskedTokenLoss(FittedLoss):
    r"""Features under masks of tokens (MasKD); see :func:`masked_token`.

    The tokens are fitted to the frozen teacher before training by
    :class:`mmkd.losses.fitted.hook.FitHook`: its own task loss is kept small where its features are
    multiplied by the sum of all masks on their way, and a Dice term keeps masks apart, see
    :class:`mmkd.losses.features.mask_tokens.TokenFitter`. Then they are frozen; they are in every
    checkpoint.

    Args:
        teacher_channels: C; None: as the Distiller finds it.
        num_tokens: K.
        power: q of the formula; 2 is the authors' code.
        fit: How tokens are fitted: ``dict(steps=1000, lr=0.1, momentum=0.9, weight_decay=1e-3,
            dice=1.0)``, or some of these.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: an option out of range.
        RuntimeError: the channels are not known.
        sklearn.exceptions.NotFittedError: called before the tokens are fitted.

    Examples:
        >>> loss = MaskedTokenLoss(1, num_tokens=1)
        >>> _ = loss.tokens.tokens.zero_()
        >>> loss(torch.tensor([[[1., 3.]]]), torch.tensor([[[0., 0.]]]))  # ½ (1 + 9) / 2
        tensor(2.5000)
    """

    roles = dict(student=Map(), teacher=Map())
    fixed = ('num_tokens', 'fit')
    fits = 'tokens'
    resized = True  # their products with features are linear in these, and so is a resize
    tokens: MaskTokens | None

    def __init__(
        self,
        teacher_channels: int | None = None,
        num_tokens: int = 8,
        power: int = 1,
        fit: Mapping[str, Any] | None = None,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_count('num_tokens', num_tokens, 1)
        check_choice('power', power, POWERS)
        self.num_tokens, self.power = num_tokens, power
        self.fit = TokenOptions.read(fit or {})
        self.tokens = None
        if teacher_channels is not None:
            check_count('teacher_channels', teacher_channels, 1)
            self.tokens = MaskTokens(num_tokens, teacher_channels)

    @property
    def part(self) -> MaskTokens | None:
        """The tokens."""
        return self.tokens

    def shapes(self) -> str:
        """Return the channels."""
        return f'{None if self.tokens is None else self.tokens.tokens.shape[1]} channels'

    def fitter(
        self, source: Source, images: int, batches: int, generator: torch.Generator
    ) -> TokenFitter:
        """Return what fits the tokens by the teacher's task loss."""
        return TokenFitter(source, batches, generator, self.fit)

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> str:
        """Make the tokens, if the channels were left out.

        Returns:
            What was built, in words; '' for nothing.
        """
        if self.tokens is not None:
            return ''
        self.tokens = MaskTokens(self.num_tokens, teacher.shape[1]).to(teacher.device)
        return f'{self.num_tokens} tokens of {teacher.shape[1]} channels'

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under mask and weight (N, \*S)."""
        if self.tokens is None:
            raise not_built('the tokens are', 'teacher_channels=…')
        if not self.tokens.fitted:
            raise NotFittedError(
                "the tokens are not fitted: they are NaN. Mend: custom_hooks=[dict(type='mmkd."
                "FitHook')] fits them before training, or copy tokens into loss.tokens.tokens"
            )
        tokens = self.tokens.tokens
        value = masked_token(student, teacher, tokens, self.power, mask, weight)
        return self.loss_weight * value
