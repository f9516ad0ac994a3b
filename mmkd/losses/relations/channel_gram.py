"""Channel Gram: which channels of a map are active at the same places."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_mask, check_weight
from mmkd.losses.functional import (
    above_zero,
    counted,
    fill_masked,
    infinite_to_nan,
    masked_mean,
    measure_of,
    no_autocast,
    softmax_of_measure,
    unit_vectors,
    widen,
)
from mmkd.losses.relations.inner_products import check_channels, check_images, check_places
from mmkd.losses.relations.nodes import average_nodes, averaged_to, resized
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_count, check_positive


def channel_gram(
    student: Tensor,
    teacher: Tensor,
    kind: str = 'nst',
    tau: float = 4.0,
    pool: int = 2,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Difference of the inner products between the channels of each image.

    Papers: Huang and Wang, NST, 2017, arXiv 1707.01219; Liu et al., ICKD, ICCV 2021; Feng et al.,
    DSD, TIP 2021, its category-wise similarity. With :math:`\hat x_c` a channel as a vector over
    the positions of an image:

    * 'nst': unit vectors, compared as sets by the squared polynomial kernel (MMD): mean over
      images of :math:`\langle k(s,s) \rangle + \langle k(t,t) \rangle - 2 \langle k(s,t) \rangle,
      k(x, y) = (\hat x^\top \hat y)^2`, means over pairs of channels, of which each side may have
      its own number. It is also :math:`\Vert \hat S^\top \hat S / C_s - \hat T^\top \hat T / C_t
      \Vert^2`, which is taken where it is cheaper. Where sizes differ, the larger map is averaged
      to the smaller one, as in RepDistiller.
    * 'ickd': mean over images and channels of :math:`\Vert \hat G^s_c - \hat G^t_c \Vert^2`, rows
      of :math:`G = X X^\top` of unit norm, as in the authors' code; places may differ.
    * 'dsd': maps are averaged over windows of ``pool``, a channel is the distribution
      :math:`\varphi_c = \mathrm{softmax}(x_c / \tau)` over the P nodes that are left, and G is
      :math:`P \varphi \varphi^\top`: mean over images and pairs of channels of :math:`(G^s_{cd} -
      G^t_{cd})^2`. CIRKD's code, after the authors', has no factor P, so that its value is
      :math:`1/P^2` of this and falls with the resolution.

    Normaliser: images without a valid position are left out; the number of positions does not
    change a value. Positions that do not count are left out. A weight is their measure: one of
    weight 2 counts as two, and its unit is arbitrary in each image. A teacher of other places is
    weighed by the mean of what each of them covers of the student's.

    Memory is linear in positions: products are of channels with channels, or of positions where
    these are fewer.

    Args:
        student: Map (N, Cs, \*S), one to three spatial axes.
        teacher: Map (N, Ct, \*S'), of as many channels but for 'nst', of as many places for 'dsd';
            receives no gradient.
        kind: 'nst', 'ickd' or 'dsd'.
        tau: Temperature of 'dsd'.
        pool: Side of the windows of 'dsd'.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, an unknown kind, an option out of range.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> student = torch.tensor([[[1., 0.], [0., 1.]]])  # channels at places of their own
        >>> teacher = torch.tensor([[[1., 1.], [1., 1.]]])  # and together
        >>> channel_gram(student, teacher)  # 1/2 + 1 − 2 · 1/2
        tensor(0.5000)
        >>> channel_gram(student, teacher, 'ickd')  # (1, 0) against (1, 1) / √2: 2 − √2
        tensor(0.5858)
    """
    _check_options(kind, tau, pool)
    name = kind.upper()
    if kind == 'dsd':
        check_places(student, teacher, name)
    else:
        check_images(student, teacher, name)
    if kind != 'nst':
        check_channels(student, teacher, name)
    check_mask(mask, student)
    check_weight(weight, student)
    with no_autocast(student):
        student, teacher = widen(student, teacher.detach())
        if kind == 'dsd':
            sides, own = _over_nodes(student, teacher, tau, pool, mask, weight)
        else:
            own = measure_of(student, mask, weight)
            sizes = [x.shape[2:] for x in (student, teacher)]
            if kind == 'nst':
                sizes = [torch.Size(map(min, *sizes))] * 2
            both = zip((student, teacher), sizes, strict=True)
            sides = [_weighed(x, own, size) for x, size in both]
        alive = None if own is None else own.flatten(1).any(1)
        return masked_mean(KINDS[kind](*sides), alive).to(student.dtype)


def _weighed(x: Tensor, own: Tensor | None, size: torch.Size) -> Tensor:
    r"""Return a map (N, C, \*S) at a size, (N, C, P), times the root of how much places count."""
    x = averaged_to(x, own, size).flatten(2)
    return x if own is None else x * resized(own, size).flatten(2).sqrt()


def _over_nodes(
    student: Tensor,
    teacher: Tensor,
    tau: float,
    pool: int,
    mask: Tensor | None,
    weight: Tensor | None,
) -> tuple[list[Tensor], Tensor | None]:
    """Return √P φ of both maps, and how much nodes count."""
    counts = counted(mask, weight)
    student, teacher = (fill_masked(x, counts) for x in (student, teacher))
    student, teacher, counts, weight = average_nodes(pool, student, teacher, counts, weight)
    own = measure_of(student, counts, weight)
    flat = None if own is None else own.flatten(2)
    return [_distributions(x.flatten(2), tau, flat) for x in (student, teacher)], own


def _distributions(x: Tensor, tau: float, own: Tensor | None) -> Tensor:
    """Return √P φ of maps (N, C, P); of a measure w it is √(Σ w · w) φ, with Σ w φ = 1."""
    x = infinite_to_nan(x)  # a softmax would take −Inf for nothing
    if own is None:
        return (x / tau).softmax(2) * x.shape[2] ** 0.5
    some = above_zero(own)
    root = (own.sum(2, keepdim=True) / own.where(some, own.new_ones(()))).sqrt()
    return softmax_of_measure(x / tau, own) * root.where(some, root.new_zeros(()))


def _sets(s: Tensor, t: Tensor) -> Tensor:
    """NST of maps (N, C, P)."""
    s, t = unit_vectors(s), unit_vectors(t)
    cs, ct, places = s.shape[1], t.shape[1], s.shape[2]
    if places**2 <= cs**2 + cs * ct + ct**2:
        ours, theirs = (x.mT @ x / x.shape[1] for x in (s, t))
        return (ours - theirs).square().sum((1, 2))
    # what is left of the three is small beside them
    ss, st, tt = ((a @ b.mT).double().square().mean((1, 2)) for a, b in ((s, s), (s, t), (t, t)))
    return ss - 2 * st + tt


def _rows(s: Tensor, t: Tensor) -> Tensor:
    """ICKD of maps (N, C, P)."""
    ours, theirs = (unit_vectors(x @ x.mT) for x in (s, t))
    return (ours - theirs).square().sum(2).mean(1)


def _overlaps(s: Tensor, t: Tensor) -> Tensor:
    """DSD of distributions (N, C, P)."""
    return (s @ s.mT - t @ t.mT).square().mean((1, 2))


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = dict(nst=_sets, ickd=_rows, dsd=_overlaps)


def _check_options(kind: str, tau: float, pool: int) -> None:
    check_choice('kind', kind, KINDS)
    check_positive('tau', tau)
    check_count('pool', pool, 1)


@MODELS.register_module()
class ChannelGramLoss(Loss):
    """Inner products between channels; see :func:`channel_gram`.

    Where channels differ in number, 'ickd' and 'dsd' want ``connectors=dict(student='auto')``.

    Args:
        kind: 'nst', 'ickd' or 'dsd'.
        tau: Temperature of 'dsd'.
        pool: Side of the windows of 'dsd'.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> student = torch.tensor([[[1., 0.], [0., 1.]]])
        >>> ChannelGramLoss('ickd', loss_weight=2.)(student, torch.ones(1, 2, 2))
        tensor(1.1716)
    """

    roles = dict(student=Map(alike=()), teacher=Map(alike=()))

    def __init__(
        self,
        kind: str = 'nst',
        tau: float = 4.0,
        pool: int = 2,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        _check_options(kind, tau, pool)
        self.kind, self.tau, self.pool = kind, tau, pool
        if kind != 'nst':
            one = Map(alike=('channels', 'size') if kind == 'dsd' else ('channels',))
            self.roles = dict(student=one, teacher=one)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under mask and weight (N, \*S)."""
        return self.loss_weight * channel_gram(
            student, teacher, self.kind, self.tau, self.pool, mask, weight
        )
