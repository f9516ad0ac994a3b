"""Features where the teacher is active, by places and by channels, and these attentions."""

import torch
from torch import Tensor

from mmkd.losses.base import Loss
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.features.global_context import BLOCKS, GlobalContextLoss
from mmkd.losses.features.point_wise import check_features
from mmkd.losses.functional import (
    fill_masked,
    masked_mean,
    no_autocast,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_non_negative, check_positive


def focal_feature(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 0.5,
    spatial: float = 1.0,
    channel: float = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared difference under the teacher's attention, and the distance of both attentions.

    Paper: Yang et al., Focal and Global Knowledge Distillation for Detectors (FGD), CVPR 2022,
    arXiv 2111.11837, the focal part.

    .. math:: A_{ni} = P_n \operatorname{softmax}_i \Big( \frac{1}{C T} \sum_c |F_{nci}| \Big),
              \qquad B_{nc} = C \operatorname{softmax}_c
              \Big( \frac{1}{P_n T} \sum_i |F_{nci}| \Big)

    .. math:: L = \frac{\sum_{n, i} w_{ni} A^t_{ni} \frac{1}{C} \sum_c B^t_{nc}
              (F^s_{nci} - F^t_{nci})^2}{\sum_{n, i} w_{ni}}
              + a \, \langle |A^s - A^t| \rangle_{n, i} + b \, \langle |B^s - B^t| \rangle_{n, c}

    Both attentions are 1 on average: of teachers that are active everywhere alike the first term is
    the mean square. The weight w is that of the first term alone, such as
    :class:`mmkd.where.boxes.Boxes`.

    Normaliser: means, over the valid places of the batch and over channels. The paper and its code
    sum, and divide by the number N of images: α, β (of what lies in boxes, and outside of them) and
    γ of the attentions. With w = :math:`w_{fg} + \beta / \alpha \cdot w_{bg}` that is this loss
    times :math:`\alpha C \sum w / N`, where a = γ P and b = γ C over that factor. The third term of
    the paper, global relations by blocks on both sides, is
    :func:`mmkd.losses.features.global_context.global_context`.

    A mask leaves places out of sums, means and both softmaxes; P is their number in an image.

    Args:
        student: Features (N, C, \*S) with at least one spatial axis.
        teacher: The same; receives no gradient.
        temperature: T of both softmaxes.
        spatial: a.
        channel: b.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts in the first term.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: maps without places or of other shapes, an option out of range.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> teacher = torch.tensor([[[1., 1.], [1., 1.]]])  # attentions of 1
        >>> focal_feature(-teacher, teacher)  # those of the student are the same: 2² alone
        tensor(4.)
        >>> weight = torch.tensor([[3., 0.]])
        >>> focal_feature(torch.tensor([[[2., 1.], [1., 7.]]]), teacher, 1., 0., 0., weight=weight)
        tensor(0.5000)
    """
    _check_options(temperature, spatial, channel)
    check_features(student, teacher, 'focal features')
    if student.dim() < 3:
        raise ValueError(
            f'focal features needs maps (N, C, *S) of places, got student {shape_of(student)}; '
            'mend: a tap of maps, such as a level of the neck'
        )
    check_mask(mask, student)
    check_weight(weight, student)
    with no_autocast(student):
        student, teacher = (fill_masked(x, mask) for x in widen(student, teacher.detach()))
        ours, theirs = (_attentions(x, temperature, mask) for x in (student, teacher))
        squares = (student - teacher).square().flatten(2)
        active = theirs[1].unsqueeze(1) / student.shape[1]
        squares = theirs[0] * (active @ squares).view_as(theirs[0])
        value = weighted_mean(squares, mask, weight)
        if spatial:
            value = value + spatial * masked_mean((ours[0] - theirs[0]).abs(), mask)
        if channel:
            images = None if mask is None else mask.flatten(1).any(1)
            value = value + channel * masked_mean((ours[1] - theirs[1]).abs().mean(1), images)
        return value


def _attentions(x: Tensor, temperature: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    r"""Return A (N, \*S) and B (N, C), of 0 where no place of an image counts."""
    energy = x.abs()
    scores = energy.mean(1).flatten(1) / temperature
    places: int | Tensor = scores.shape[1]
    if mask is not None:
        flat = mask.flatten(1)
        places = flat.sum(1, keepdim=True)
        scores = scores.where(flat, -torch.inf).where(places > 0, 0.0)
    where = (places * scores.softmax(1)).view(len(x), *x.shape[2:])
    divisor = places if mask is None else places.clamp(min=1)  # type: ignore[union-attr]
    channels = energy.flatten(2).sum(2) / divisor
    return where, x.shape[1] * (channels / temperature).softmax(1)


def _check_options(temperature: float, spatial: float, channel: float) -> None:
    check_positive('temperature', temperature)
    check_non_negative('spatial', spatial)
    check_non_negative('channel', channel)


@MODELS.register_module()
class FocalFeatureLoss(Loss):
    r"""Features under the teacher's attention (FGD); see :func:`focal_feature`.

    With ``relation`` the global part of FGD is added, times that number, of the same student behind
    the same connector, see :class:`mmkd.losses.features.global_context.GlobalContextLoss`: every
    place counts alike in it, whatever the weight.

    Args:
        temperature: T of both softmaxes, above 0.
        spatial: Weight of the distance of the attentions over places.
        channel: Weight of that over channels.
        relation: Weight of the global part; 0: it is not there, and no block either.
        blocks: 'shared' or 'two', of the global part.
        teacher_channels: C, of the global part; None: as the Distiller finds it.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: An option out of range.

    Examples:
        >>> teacher = torch.tensor([[[1., 1.], [1., 1.]]])
        >>> FocalFeatureLoss()(-teacher, teacher)  # (−1 − 1)²
        tensor(4.)
    """

    fixed = ('relation',)

    def __init__(
        self,
        temperature: float = 0.5,
        spatial: float = 1.0,
        channel: float = 1.0,
        relation: float = 0.0,
        blocks: str = 'shared',
        teacher_channels: int | None = None,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        _check_options(temperature, spatial, channel)
        check_non_negative('relation', relation)
        self.temperature, self.spatial, self.channel = temperature, spatial, channel
        check_choice('blocks', blocks, BLOCKS)
        self.relation = relation
        self.context = GlobalContextLoss(blocks, teacher_channels) if relation else None

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> str:
        """Make the blocks of the global part, if there is one.

        Returns:
            What was built, in words; '' for nothing.
        """
        return '' if self.context is None else self.context.build(student, teacher)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under mask and weight (N, \*S)."""
        value = focal_feature(
            student, teacher, self.temperature, self.spatial, self.channel, mask, weight
        )
        if self.context is not None:
            value = value + self.relation * self.context(student, teacher, mask)
        return self.loss_weight * value
