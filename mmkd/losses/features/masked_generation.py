"""Masked generation: what the student's features leave out is generated from what they keep."""

from math import isqrt

import torch
from torch import Tensor, nn

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.features.generator import check_generator, drawn_places, generator_of, keep
from mmkd.losses.features.point_wise import check_features, cost
from mmkd.losses.functional import (
    call_in_dtype,
    counted,
    fill_masked,
    no_autocast,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_count, check_fraction, check_size, not_built

UNITS = ('position', 'channel')
FILLS = ('zero', 'token')
OVER = ('all', 'masked')
BEFORE = 8  # tokens before those of patches, of classes and registers, where the grid is known


def masked_generation(
    student: Tensor,
    teacher: Tensor,
    generator: nn.Module,
    kept: Tensor,
    token: Tensor | None = None,
    over: str = 'all',
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared difference of the teacher's map and what is generated from a part of the student's.

    Papers: Yang et al., Masked Generative Distillation (MGD), ECCV 2022, arXiv 2205.01529; Yang
    et al., ViTKD, arXiv 2209.02432, whose token stands where nothing is kept, and which compares
    these places alone, ``over='masked'``. With M = 1 where the student's map is kept:

    .. math:: L = \frac{1}{|V| C} \sum_{(n, i) \in V} \sum_c
              \left( G(M \odot s + (1 - M)\, e)_{nic} - t_{nic} \right)^2

    Normaliser: the valid positions V of the whole batch times the channels C; of 'masked' those of
    them that are not kept, 0 where all are. The authors' codes add up over C and all P places of an
    image, so that their weights are to be multiplied by C P; ViTKD divides its sum over the masked
    by their share. It is not 0 at student = teacher, since G is not the identity.

    Masked-out positions (of ``mask``) are 0 in what G sees; a position of weight 0 is seen.

    Args:
        student: s (N, C, \*S), any number of spatial axes that G takes.
        teacher: t of the same shape; receives no gradient.
        generator: G, which keeps the shape.
        kept: M, bool, (N, 1, \*S) of positions or (N, C, 1, …) of channels.
        token: e (C,); None: 0.
        over: 'all' or 'masked'.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, 'masked' of channels, another word for ``over``.
        TypeError: a mask or ``kept`` that is not bool, a weight that is no float.

    Examples:
        >>> student, teacher = torch.tensor([[[1., 3.]]]), torch.tensor([[[2., 5.]]])
        >>> kept = torch.tensor([[[True, False]]])
        >>> masked_generation(student, teacher, nn.Identity(), kept)  # ((1 − 2)² + (0 − 5)²) / 2
        tensor(13.)
        >>> token = torch.tensor([7.])
        >>> masked_generation(student, teacher, nn.Identity(), kept, token, 'masked')  # (7 − 5)²
        tensor(4.)
    """
    check_features(student, teacher, 'masked generation')
    check_mask(mask, student)
    check_weight(weight, student)
    _check_kept(kept, student)
    _check_over(over, 'position' if kept.shape[1] == 1 else 'channel')
    with no_autocast(student):
        student, teacher = widen(student, teacher.detach())
        seen = fill_masked(keep(student, kept, token), mask)
        made = call_in_dtype(generator, seen)
        check_features(made, teacher, 'what is generated')
        if over == 'masked':
            missing = (~kept).expand_as(student[:, :1]).squeeze(1)
            mask = missing if mask is None else mask & missing
        counts = counted(mask, weight)
        made, teacher = (fill_masked(x, counts) for x in (made, teacher))
        return weighted_mean(cost(made, teacher, 'l2'), mask, weight)


@MODELS.register_module()
class MaskedGenerationLoss(Loss):
    r"""Masked generation (MGD, ViTKD); see :func:`masked_generation`.

    A share of the student's positions, or of its channels, is left out at random in each step; two
    3×3 convolutions with a ReLU between, as the authors', generate the teacher's map from what is
    left. They are the loss's own: in the student's optimizer and the checkpoint, and in no exported
    student. Draws are torch's, which ExactResumeHook seeds for each step.

    Tokens (N, L, D) become a map of h×w, without those that stand before: L = h² or h² + 1 tokens
    are found, others need ``grid``, and so do images that are no square; mask and weight are
    (N, L).

    Args:
        mask_ratio: Share that is left out, from 0 to below 1; each is left out with this
            probability, on its own.
        per: 'position': the same of all channels; or 'channel': of all positions.
        fill: 'zero', or 'token', which is learned, of one number a channel.
        over: 'all', or 'masked': what was left out is compared alone.
        grid: Height and width of tokens; None: square. Up to 8 may stand before.
        teacher_channels: C; None: as the Distiller finds it.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: an option out of range.
        RuntimeError: the channels are not known.

    Examples:
        >>> loss = MaskedGenerationLoss(teacher_channels=2)
        >>> for parameter in loss.parameters():
        ...     _ = parameter.data.zero_()
        >>> loss(torch.ones(1, 2, 4, 4), 3 * torch.ones(1, 2, 4, 4)).item()  # (0 − 3)²
        9.0
    """

    roles = dict(student=Map(tokens=True), teacher=Map(tokens=True))
    generator: nn.Sequential | None
    token: nn.Parameter | None

    def __init__(
        self,
        mask_ratio: float = 0.75,
        per: str = 'position',
        fill: str = 'zero',
        over: str = 'all',
        grid: tuple[int, int] | None = None,
        teacher_channels: int | None = None,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_fraction('mask_ratio', mask_ratio)
        check_choice('per', per, UNITS)
        check_choice('fill', fill, FILLS)
        _check_over(over, per)
        check_size('grid', grid)
        self.mask_ratio, self.per, self.fill, self.over = mask_ratio, per, fill, over
        self.grid = grid
        self.generator = self.token = None
        if teacher_channels is not None:
            check_count('teacher_channels', teacher_channels, 1)
            self._make(teacher_channels)

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> str:
        """Make the generator, if the channels were left out.

        Returns:
            What was built, in words; '' for nothing.
        """
        teacher = self._map(teacher)
        if self.generator is not None:
            return ''
        self._make(teacher.shape[1], teacher.device)
        what = f'generator of {teacher.shape[1]} channels'
        what += ' and its token' * (self.fill == 'token')
        of_tokens = f', of tokens as a map of {teacher.shape[2]}×{teacher.shape[3]}'
        return what + of_tokens * (student.dim() == 3)

    def draw(self, student: Tensor) -> Tensor:
        """Return what is kept of a map (N, C, H, W), bool, (N, 1, H, W) or (N, C, 1, 1)."""
        check_fraction('mask_ratio', self.mask_ratio)  # a schedule may have changed it
        if self.per == 'position':
            return drawn_places(student, self.mask_ratio)
        channels = (*student.shape[:2], 1, 1)
        return torch.rand(channels, device=student.device) >= self.mask_ratio

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted loss of maps (N, C, H, W) under mask and weight (N, H, W)."""
        if self.generator is None:
            raise not_built('the generator is', 'teacher_channels=…')
        if student.dim() == 3:
            check_mask(mask, student.mT)
            check_weight(weight, student.mT)
            mask, weight = (self._places(x, student.shape[1]) for x in (mask, weight))
        student, teacher = self._map(student), self._map(teacher)
        check_generator(self.generator, student)
        value = masked_generation(
            student,
            teacher,
            self.generator,
            self.draw(student),
            self.token,
            self.over,
            mask,
            weight,
        )
        return self.loss_weight * value

    def _make(self, channels: int, device: torch.device | None = None) -> None:
        self.generator = generator_of(channels, device)
        if self.fill == 'token':
            self.token = nn.Parameter(torch.zeros(channels, device=device))

    def _map(self, x: Tensor) -> Tensor:
        """Return a map as it is, tokens as one."""
        if x.dim() == 4:
            return x
        if x.dim() != 3:
            raise ValueError(
                f'masked generation needs maps (N, C, H, W) or tokens (N, L, D), got '
                f'{shape_of(x)}; mend: a tap of maps'
            )
        height, width = self._grid(x.shape[1])
        return x[:, x.shape[1] - height * width :].mT.unflatten(2, (height, width))

    def _places(self, x: Tensor | None, length: int) -> Tensor | None:
        """Return mask or weight (N, L) of tokens as that of their map."""
        if x is None:
            return None
        height, width = self._grid(length)
        return x[:, length - height * width :].unflatten(1, (height, width))

    def _grid(self, length: int) -> tuple[int, int]:
        """Return height and width of so many tokens."""
        side = isqrt(length)
        height, width = (side, side) if self.grid is None else self.grid
        spare = length - height * width
        if 0 <= spare <= (1 if self.grid is None else BEFORE):
            return height, width
        raise ValueError(
            f'{length} tokens are no map: grid={self.grid}; mend: grid=(height, width) of the '
            f'patches, the last of the tokens, with no more than {BEFORE} before them'
        )


def _check_kept(kept: Tensor, student: Tensor) -> None:
    if kept.dtype != torch.bool:
        raise TypeError(
            f'kept must be a bool tensor, got {kept.dtype}; mend: torch.rand(…) >= 0.75'
        )
    positions = (len(student), 1, *student.shape[2:])
    channels = (*student.shape[:2], *[1] * (student.dim() - 2))
    if kept.shape not in (positions, channels):
        raise ValueError(
            f'kept must be of positions {positions} or of channels {channels}, got '
            f'{shape_of(kept)}; mend: kept.unsqueeze(1)'
        )


def _check_over(over: str, per: str) -> None:
    check_choice('over', over, OVER)
    if over == 'masked' and per == 'channel':
        raise ValueError(
            "over='masked' compares the positions that were left out, but channels were; mend: "
            "per='position', or over='all'"
        )
