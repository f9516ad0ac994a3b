"""A target mixed of student and teacher, place by place, by how the labels bear each out."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.base import Loss, Map, OfBatch
from mmkd.losses.checks import check_distributions, check_labels
from mmkd.losses.divergence.binary_kl import bernoulli_kl
from mmkd.losses.divergence.split import at_labels
from mmkd.losses.functional import (
    above_zero,
    fill_masked,
    gather_over_ranks,
    infinite_to_nan,
    masked_mean,
    measure,
    no_autocast,
    softmax_of_measure,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_positive


def reliability_mix(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    tau: float = 4.0,
    over: str = 'places',
    ignore_index: int = 255,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Divergence from a target that is the teacher's where the teacher errs less than the student.

    Paper: Huang et al., Distilling Knowledge from Heterogeneous Architectures for Semantic
    Segmentation (HeteroAKD), AAAI 2025, arXiv 2504.07691, its mixing (KMM) and its evaluation (KEM)
    of knowledge. Each class is a yes or no, H is the cross-entropy of that with the label:

    .. math:: H(z)_{ic} = -\ln \sigma(\pm z_{ic}), \qquad
              h = a\, z^t + (1 - a)\, z^s, \quad a = \frac{H(z^s)}{H(z^s) + H(z^t)}, \qquad
              g = H(z^s) + \max(0, H(z^s) - H(h))

    with + at the label. h and g receive no gradient. The target h is nearer to the side that errs
    less, class by class; g is how much is to be learned. A teacher that is wrong beyond doubt is
    not passed over: as its logit grows h tends to z^s ∓ H(z^s), not to z^s. ``over`` is what the
    weights add up to 1 over, and what is compared:

    * 'places': :math:`\frac{\tau^2}{N C} \sum_{nc} \sum_i w_{nci} \mathrm{KL}(\sigma(h_{nci} /
      \tau) \Vert \sigma(z^s_{nci} / \tau))`, w the softmax of g over the valid places of an image;
      of classes of whole images, (N, C), over the images of the batch, those of all ranks, as many
      on each. It is 0, with zero gradient, where the student says what the teacher says.
    * 'classes': :math:`-\tau^2 \langle \sum_c w_{ic}\, p_{ic} \ln q_{ic} \rangle_i`, p and q the
      softmax over classes of h/τ and of the student's z/τ, w the softmax of g over classes. It is a
      cross-entropy and is least at q ∝ w p, which is not p.

    Of the paper only the abstract was to be had, and no code of its authors. What h and g are, two
    implementations by others agree on; of the rest each has its own reading, which the two kinds
    are. The one of 'classes' names equations 5 to 10 as its source; it has no τ² and averages over
    classes too. The other is as here.

    Normaliser: 'places' averages over the images that have a valid place and over classes,
    'classes' over the valid places of the batch. A place counts that has a label.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        labels: Classes (N, \*S); a position whose label is none of them is left out.
        tau: Temperature of what is compared; H is at 1.
        over: 'places' or 'classes'.
        ignore_index: The label of a place of a map that has no class.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single class, an unknown kind.
        TypeError: labels that are no integers, a mask that is not bool, a weight that is not
            floating.

    Examples:
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3., 1/3]]).log()
        >>> label = torch.tensor([0])
        >>> reliability_mix(student, teacher, label, tau=1.)  # a = ln 2 / (ln 2 + ln 4/3)
        tensor(0.0700)
        >>> reliability_mix(teacher, teacher, label)
        tensor(0.)
    """
    check_positive('tau', tau)
    check_choice('over', over, OVER)
    check_distributions(student, teacher, 'reliability mix', mask, weight)
    check_labels(labels, student, 'reliability mix')
    with no_autocast(student):
        valid, counts, target = at_labels(labels, student.shape[1], ignore_index, mask, weight)
        # a sigmoid makes a number of ±Inf, and a share of 0 would hide it
        student, teacher = (
            infinite_to_nan(fill_masked(x, counts)) for x in widen(student, teacher.detach())
        )
        mixed, gain = _assess(student.detach(), teacher, target)
        return tau**2 * OVER[over](student / tau, mixed / tau, gain, valid, weight)


def label_ce(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of each class as a yes or no, where ``target`` says which is.

    >>> label_ce(torch.zeros(1, 2), torch.tensor([[True, False]]))
    tensor([[0.6931, 0.6931]])
    """
    return F.softplus(torch.where(target, -logits, logits))


def _assess(s: Tensor, t: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mixed logits h and how much is to be learned, g."""
    ours, theirs = label_ce(s, target), label_ce(t, target)
    total = ours + theirs
    # both 0: both are right beyond doubt, and the student stays as it is
    share = ours / total.where(total != 0, total.new_ones(()))
    mixed = torch.lerp(s, t, share)
    return mixed, ours + (ours - label_ce(mixed, target)).clamp(min=0)


def _over_places(
    s: Tensor, h: Tensor, gain: Tensor, valid: Tensor, weight: Tensor | None
) -> Tensor:
    """Return the divergence of yes and no, averaged over places by what is to be learned there."""
    own = valid.to(s.dtype) if weight is None else measure(weight, valid, s.dtype)
    each = bernoulli_kl(s, h)
    if s.dim() == 2:  # the batch, of all ranks, is one row of places
        each, gain, own = (gather_over_ranks(x.contiguous()) for x in (each, gain, own))
        each, gain, own = each.mT[None], gain.mT[None], own[None]
    own = own.flatten(1).unsqueeze(1)
    shares = softmax_of_measure(gain.flatten(2), own)
    return masked_mean((shares * each.flatten(2)).sum(2).mean(1), above_zero(own).any(2).squeeze(1))


def _over_classes(
    s: Tensor, h: Tensor, gain: Tensor, valid: Tensor, weight: Tensor | None
) -> Tensor:
    """Return the cross-entropy in which a class counts by what is to be learned of it."""
    soft = gain.softmax(1) * h.softmax(1)
    return weighted_mean(-(soft * s.log_softmax(1)).sum(1), valid, weight)


OVER: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]] = dict(
    places=_over_places, classes=_over_classes
)


@MODELS.register_module()
class ReliabilityMixLoss(Loss):
    r"""A target mixed of student and teacher by the labels; see :func:`reliability_mix`.

    Args:
        tau: Temperature.
        over: 'places' or 'classes': what the weights add up to 1 over, and what is compared.
        ignore_index: The label of a place of a map that has no class.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3., 1/3]]).log()
        >>> ReliabilityMixLoss(tau=1., loss_weight=10.)(student, teacher, torch.tensor([0]))
        tensor(0.7003)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True), labels=OfBatch())

    def __init__(
        self,
        tau: float = 4.0,
        over: str = 'places',
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('tau', tau)
        check_choice('over', over, OVER)
        self.tau, self.over, self.ignore_index = tau, over, ignore_index

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) with labels, mask, weight (N, \*S)."""
        return self.loss_weight * reliability_mix(
            student, teacher, labels, self.tau, self.over, self.ignore_index, mask, weight
        )
