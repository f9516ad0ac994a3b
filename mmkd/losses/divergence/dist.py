"""DIST: the student's class probabilities follow the teacher's, by correlation."""

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_distributions, check_one_counts
from mmkd.losses.functional import (
    above_zero,
    cosines,
    counted,
    fill_masked,
    infinite_to_nan,
    masked_mean,
    max_over_ranks,
    measure,
    no_autocast,
    place_axes,
    sum_over_ranks,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_non_negative, check_positive


def dist(
    student: Tensor,
    teacher: Tensor,
    tau: float = 1.0,
    inter: float = 1.0,
    intra: float = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Correlation of the class probabilities of student and teacher, by position and by class.

    Paper: Huang et al., Knowledge Distillation from A Stronger Teacher (DIST), NeurIPS 2022, arXiv
    2205.10536. ρ is Pearson's correlation, p = softmax(z/τ).

    .. math:: \tau^2 \left[ \beta \frac{1}{|V|} \sum_{i \in V} (1 - \rho_c(p^s_{ic}, p^t_{ic}))
              + \gamma \frac{1}{|C|} \sum_{c \in C} (1 - \rho_{i \in V}(p^s_{ic}, p^t_{ic})) \right]

    Normaliser: averaged over the valid positions V of the whole batch, and over the classes C that
    are not constant over V, on either side. The authors' code counts such a class as 1, so that the
    value of a student that equals its teacher is not 0, and adds 1e-8 to the norms, which mutes
    classes of tiny probability. A position where the teacher holds all classes equally likely has
    no order to follow and is left out; a student of equal classes is at ρ = 0. The term by class
    depends on what shares the batch, which is that of all ranks: the authors' is of one device.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teacher: Logits of the same shape; receives no gradient.
        tau: Temperature.
        inter: β, of the term by position (between the classes of one).
        intra: γ, of the term by class (between the positions of one).
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single class, a factor below 0, two classes with
            ``inter`` above 0: two probabilities correlate by ±1 whatever they are.
        TypeError: a mask that is not bool, a weight that is not floating.

    Examples:
        >>> import torch
        >>> student = torch.tensor([[2., 1., 1.]]).log()  # centred (2, -1, -1)
        >>> teacher = torch.tensor([[1., 2., 1.]]).log()  # centred (-1, 2, -1): ρ = -1/2
        >>> dist(student, teacher, intra=0)
        tensor(1.5000)
    """
    check_positive('tau', tau)
    check_non_negative('inter', inter)
    check_non_negative('intra', intra)
    check_distributions(student, teacher, 'DIST', mask, weight)
    if inter and student.shape[1] == 2:
        raise ValueError(
            'two probabilities correlate by ±1 whatever they are: the term by position could not '
            'be learned. Mend: inter=0'
        )
    with no_autocast(student):
        student, teacher = widen(student, teacher.detach())
        valid = counted(mask, weight)
        p_s = infinite_to_nan(fill_masked(student, valid) / tau).softmax(1)
        p_t = (fill_masked(teacher, valid) / tau).softmax(1)
        value = p_s.new_zeros(())
        if inter:
            ordered = _ordered(p_t)
            ordered = ordered if valid is None else ordered & valid
            correlation = cosines(_centred(p_s), _centred(p_t), 1)
            value = value + inter * weighted_mean(1 - correlation, ordered, weight)
        if intra:
            value = value + intra * _by_class(p_s, p_t, valid, weight)
        return tau**2 * value


def _by_class(p_s: Tensor, p_t: Tensor, valid: Tensor | None, weight: Tensor | None) -> Tensor:
    """Return the mean over live classes of 1 − ρ over all positions, those of all ranks."""
    own = valid if weight is None else measure(weight, valid, p_s.dtype)
    own = None if own is None else own.to(p_s.dtype).unsqueeze(1)
    live = _alive(p_s, own) & _alive(p_t, own)
    total = sum_over_ranks(p_s.new_full((), p_s[:, 0].numel()) if own is None else own.sum())
    total = total.where(total > 0, total.new_ones(()))
    sums = [(x if own is None else x * own).sum(place_axes(x), keepdim=True) for x in (p_s, p_t)]
    means = sum_over_ranks(torch.stack(sums)) / total
    a, b = p_s - means[0], p_t - means[1].detach()  # both sums share one graph
    if own is not None:
        a, b = (x.mul_(own.sqrt()) for x in (a, b))
    return masked_mean(1 - _cosine_over_ranks(a, b), live)


def _cosine_over_ranks(a: Tensor, b: Tensor) -> Tensor:
    r"""Return the cosine by class of two maps (N, C, \*S), whose positions lie on all ranks.

    The maps are changed.
    """
    # As of unit vectors: the squares of a class of tiny probability are no numbers of float32.
    places = place_axes(a)
    largest = [x.detach().abs().amax(places, keepdim=True) for x in (a, b)]
    sizes = max_over_ranks(torch.stack(largest))
    sizes = sizes.where(sizes > torch.finfo(a.dtype).tiny, sizes.new_ones(()))
    a, b = a.div_(sizes[0]), b.div_(sizes[1])
    pairs = (a, b), (a, a), (b, b)
    sums = sum_over_ranks(torch.stack([(x * y).sum(places) for x, y in pairs]))
    squares = sums[1:]
    scales = squares.where(squares > 0, squares.new_ones(())).rsqrt()
    return sums[0] * scales[0] * scales[1]


def _centred(p: Tensor) -> Tensor:
    """Return vectors of mean 0 over classes, whose cosine is the correlation."""
    return p - p.mean(1, keepdim=True)


def _alive(p: Tensor, own: Tensor | None) -> Tensor:
    """Return whether the numbers of a class differ where they count, on any rank."""
    p, limits, places = p.detach(), torch.finfo(p.dtype), place_axes(p)
    least = most = p
    if own is not None:
        counts = above_zero(own)
        least = p.where(counts, p.new_full((), limits.max))
        most = p.where(counts, p.new_zeros(()))
    most, least = max_over_ranks(torch.stack([most.amax(places), -least.amin(places)]))
    return _differ(-least, most)


def _ordered(p: Tensor) -> Tensor:
    """Return whether the classes of a position differ."""
    return _differ(p.amin(1), p.amax(1))


def _differ(least: Tensor, most: Tensor) -> Tensor:
    """Return whether numbers of 0 or above differ by more than they are rounded."""
    limits = torch.finfo(most.dtype)
    return ~(most - least <= (4 * limits.eps * most).clamp(min=1e3 * limits.tiny))


@MODELS.register_module()
class DISTLoss(Loss):
    r"""Correlation of class probabilities, by position and by class; see :func:`dist`.

    Args:
        tau: Temperature.
        inter: Of the term by position.
        intra: Of the term by class.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> student, teacher = torch.eye(3), 1 - torch.eye(3)  # opposite: ρ = -1
        >>> DISTLoss(loss_weight=2.)(student, teacher)  # 2 (2 + 2)
        tensor(8.)
    """

    roles = dict(student=Map(class_logits=True), teacher=Map(class_logits=True))

    def __init__(
        self,
        tau: float = 1.0,
        inter: float = 1.0,
        intra: float = 1.0,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_positive('tau', tau)
        check_non_negative('inter', inter)
        check_non_negative('intra', intra)
        check_one_counts('DISTLoss', inter=inter, intra=intra)
        self.tau, self.inter, self.intra = tau, inter, intra

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) under a bool mask and a weight."""
        return self.loss_weight * dist(
            student, teacher, self.tau, self.inter, self.intra, mask, weight
        )
