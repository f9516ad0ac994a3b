"""Feature matching: the difference of features place by place, normalised or as they are."""

from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.features.point_wise import (
    NORMALISATIONS,
    Penalty,
    check_penalty,
    check_tokens,
    point_wise,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice


def feature_matching(
    student: Tensor,
    teacher: Tensor,
    normalise: str | None = None,
    penalty: Penalty = 'l2',
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    pooled: bool = False,
) -> Tensor:
    r"""Mean penalty of the difference of two feature maps, each normalised first.

    Papers: Romero et al., FitNets, ICLR 2015, arXiv 1412.6550 (nothing normalised, squares); NFD,
    arXiv 2207.05256 ('sample'); Cao et al., PKD, NeurIPS 2022, arXiv 2207.02039 ('batch', half the
    value); the cosine and its mix with Huber's, as foundation models are distilled (UNIC, RADIO);
    Yang et al., SRRL, ICLR 2021 (``pooled``, its first term).

    .. math:: L = \frac{1}{|V| C} \sum_{i \in V} \sum_c \rho(\hat s_{ic} - \hat t_{ic})

    with ρ(d) = d², \|d\| or Huber's (d²/2 below 1, \|d\| − 1/2 above); of 'cosine' the mean over V
    of 1 − cos. A mix such as dict(cosine=.5, huber=.5) is the weighted sum of such values.

    ``normalise``: 'l2' makes the channels of a position a unit vector; 'sample' gives each channel
    of each image mean 0 and variance 1 over its valid positions; 'batch' the same over all images,
    under distributed training those of all ranks, so that many devices equal one; 'image' divides
    the whole of an image by its root mean square, so that only the scale is lost. Variances divide
    by the number n of positions: the authors of PKD divide by n − 1, and their value is
    (n − 1) / n of half of this one, which is 1 − the mean Pearson correlation. A constant channel
    becomes 0: against a live one it costs 1 ('l2') and gets no gradient. A zero vector stays one,
    and its cosine is 0.

    ``pooled`` compares the means over the valid positions of each image, to which a weight belongs,
    and averages over the images that have some.

    Normaliser: the valid positions V of the whole batch times the channels C. A weight counts in
    that mean and in no statistics.

    Args:
        student: Map (N, C, \*S), any number of spatial axes, none included.
        teacher: Map of the same shape; receives no gradient.
        normalise: None, 'l2', 'sample', 'batch' or 'image'.
        penalty: 'l2', 'l1', 'huber' or 'cosine', or a mix: penalty -> weight.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts.
        pooled: Whether the means over the positions of an image are compared.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, 'sample' of vectors or pooled, an unknown option.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> import torch
        >>> teacher = torch.tensor([[0., 4.], [0., 1.]])
        >>> feature_matching(torch.tensor([[1., 2.], [0., 0.]]), teacher)  # (1 + 4 + 0 + 1) / 4
        tensor(1.5000)
        >>> up, down = torch.tensor([[[1., 3.]]]), torch.tensor([[[8., 2.]]])
        >>> feature_matching(up, down, 'sample')  # (−1 − 1)² and (1 + 1)²
        tensor(4.)
    """
    check_choice('normalise', normalise, NORMALISATIONS)
    check_penalty(penalty)
    return point_wise(
        student, teacher, normalise, penalty, mask, weight, 'feature matching', pooled
    )


@MODELS.register_module()
class FeatureMatchingLoss(Loss):
    r"""Matching of features place by place; see :func:`feature_matching`.

    Args:
        normalise: None, 'l2' (unit vectors over channels), 'sample' or 'batch' (mean 0 and variance
            1 of each channel, of an image or of the batch), or 'image' (over its root mean square).
        penalty: 'l2', 'l1', 'huber' or 'cosine', or a mix: dict(cosine=.5, huber=.5).
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.
        pooled: Whether the means over the positions of an image are compared.
        tokens: Whether they are tokens (N, L, D), with mask and weight (N, L).

    Examples:
        >>> import torch
        >>> student, teacher = torch.tensor([[3., 4.]]), torch.tensor([[4., 3.]])
        >>> FeatureMatchingLoss(penalty='cosine')(student, teacher)  # 1 − 24 / 25
        tensor(0.0400)
    """

    def __init__(
        self,
        normalise: str | None = None,
        penalty: Penalty = 'l2',
        loss_weight: float = 1.0,
        loss_name: str | None = None,
        pooled: bool = False,
        tokens: bool = False,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_choice('normalise', normalise, NORMALISATIONS)
        check_penalty(penalty)
        self.normalise, self.penalty, self.pooled = normalise, penalty, pooled
        self.tokens = tokens
        if tokens:
            self.roles = dict(student=Map(tokens=True), teacher=Map(tokens=True))

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under mask and weight (N, \*S)."""
        if self.tokens:
            check_tokens(student, teacher)
            student, teacher = student.mT, teacher.mT
        return self.loss_weight * feature_matching(
            student, teacher, self.normalise, self.penalty, mask, weight, self.pooled
        )
