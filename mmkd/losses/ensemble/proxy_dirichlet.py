"""Proxy-Dirichlet distillation: the student matches a Dirichlet fitted to the members."""

import math
from typing import Any

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map, Running
from mmkd.losses.ensemble.dirichlet_nll import clipped_concentration
from mmkd.losses.ensemble.statistics import EnsembleStatistics, read_ensemble
from mmkd.losses.functional import fill_masked, kl_divergence, masked_mean, no_autocast, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_non_negative

DIRECTIONS = ('reverse', 'forward')
MAX_PRECISION = 1e6
FAR = 1e3  # where Stirling's series is exact to rounding


def proxy_dirichlet(
    student: Tensor,
    teachers: Tensor | EnsembleStatistics,
    direction: str = 'reverse',
    offset: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Divergence between the student's Dirichlet and one fitted to the members in closed form.

    The precision of the latter is read off the members' disagreement.

    Paper: Ryabinin et al., Scaling Ensemble Distribution Distillation to Many Classes with Proxy
    Targets, NeurIPS 2021, arXiv 2105.06987.

    .. math:: \mathrm{MKL} = \frac1M \sum_m \mathrm{KL}(\bar\pi \Vert \pi^{(m)}), \quad
              \tilde\beta_0 = \min\Big(\frac{K-1}{2\,\mathrm{MKL} + 10^{-8}}, 10^6\Big), \quad
              \beta = \bar\pi \tilde\beta_0 + o, \quad \alpha = e^z + o

    ``direction='reverse'`` is KL(Dir α‖Dir β) / Σβ, the paper's claim; ``'forward'`` is KL(Dir
    β‖Dir α), whose gradient is spent on unlikely classes as that of the plain likelihood is: at z =
    0 with 1000 classes and sure members −7.2 on the true class but +6.9 on each other, against
    −0.64 and +0.0005 of 'reverse'.

    Normaliser: averaged over the valid positions of the whole batch.

    Where the authors' code differs: its reverse loss is the same up to a constant of the student,
    its forward loss is the same; it has no cap on the precision, which grows without bound where
    members agree.

    Temperature is 1 and nothing is smoothed: another temperature would be another disagreement.
    Predict classes by softmax(z), as the authors do; the offset belongs to uncertainty measures
    only. Computed in float64; a logit is clipped as in :func:`dirichlet_nll`.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teachers: Logits of the members (M, N, C, \*S), M ≥ 2, or :class:`EnsembleStatistics` of
            them, taken at temperature 1 without smoothing; receives no gradient.
        direction: 'reverse' or 'forward'.
        offset: o ≥ 0, of both sides. Below 1 the density has poles, and without it 'forward' is
            infinite where a class has no probability.
        mask: Bool (N, \*S), True where a position counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: fewer than two members, shapes that do not fit, a single class, an unknown
            option.
        TypeError: a mask that is not bool.

    Examples:
        >>> members = torch.tensor([[[1., 3.]], [[3., 1.]]]).log()  # π̄ = (1/2, 1/2), MKL = ½ ln 4/3
        >>> beta = 0.5 / math.log(4 / 3) + 1  # β̃₀ = 1 / ln(4/3)
        >>> proxy_dirichlet(torch.tensor([[beta - 1, beta - 1]]).log(), members).abs() < 1e-6
        tensor(True)
        >>> flat = torch.zeros(1, 2)
        >>> proxy_dirichlet(flat, members), proxy_dirichlet(flat, members, 'forward')
        (tensor(0.0061), tensor(0.0266))
    """
    check_choice('direction', direction, DIRECTIONS)
    check_non_negative('offset', offset)
    statistics = read_ensemble(student, teachers, mask=mask)
    with no_autocast(student):
        mean_prob, mean_log_prob = (
            fill_masked(x, mask) for x in (statistics.mean_prob, statistics.mean_log_prob)
        )
        beta = proxy_concentration(mean_prob, mean_log_prob).add_(offset)
        alpha = clipped_concentration(student, mask=mask) + offset
        if direction == 'reverse':
            divergence = dirichlet_kl(alpha, beta) / beta.sum(1)
        else:
            divergence = dirichlet_kl(beta, alpha)
        return masked_mean(divergence, mask).to(widen(student)[0].dtype)


def proxy_concentration(mean_prob: Tensor, mean_log_prob: Tensor) -> Tensor:
    r"""Return π̄·β̃₀ (N, C, \*S) of the two means over members, without offset.

    >>> agreed = torch.full((1, 2), .5)  # the cap
    >>> proxy_concentration(agreed, agreed.log())
    tensor([[500000., 500000.]])
    """
    mkl = kl_divergence(mean_prob, mean_log_prob).unsqueeze(1).clamp(min=0)
    precision = ((mean_prob.shape[1] - 1) / (2 * mkl + 1e-8)).clamp(max=MAX_PRECISION)
    return (mean_prob * precision).clamp_(min=torch.finfo(mean_prob.dtype).tiny)


def dirichlet_kl(p: Tensor, q: Tensor) -> Tensor:
    r"""Return KL(Dir p‖Dir q) of concentrations (N, C, \*S) -> (N, \*S).

    Grouped so that a narrow Dir p costs no digits: ln Γ(p) and p ψ(p) alone grow as p ln p, their
    difference as ln p.

    >>> dirichlet_kl(torch.tensor([[2., 2.]]), torch.ones(1, 2))  # ∫ 6xy ln 6xy = ln 6 − 5/3
    tensor([0.1251])
    """
    return _DirichletKL.apply(p, q)


class _DirichletKL(torch.autograd.Function):
    """The divergence, of which no map but p and q is kept for the backward.

    Its gradient is f'(p) − q ψ'(p) − (f'(p₀) − q₀ ψ'(p₀)) with f(x) = x ψ(x) − ln Γ(x) − x, and
    that of q is ψ(q) − ψ(q₀) − (ψ(p) − ψ(p₀)). Both are functions of what was given, so that they
    can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor) -> Tensor:
        ctx.save_for_backward(p, q)
        p_0, q_0 = p.sum(1, keepdim=True), q.sum(1, keepdim=True)
        psi, psi_0 = p.digamma(), p_0.digamma()
        each = _excess(p, psi).add_(q.lgamma()).sub_(psi.sub_(psi_0).mul_(q))
        return each.sum(1) - (_excess(p_0, psi_0) + q_0.lgamma()).squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, q = ctx.saved_tensors
        p_0, q_0 = p.sum(1, keepdim=True), q.sum(1, keepdim=True)
        grad, of_p, of_q = grad.unsqueeze(1), None, None
        if ctx.needs_input_grad[0]:
            of_p = grad * _slope(p, q).sub_(_slope(p_0, q_0))
        if ctx.needs_input_grad[1]:
            of_q = grad * (q.digamma() - p.digamma() - (q_0.digamma() - p_0.digamma()))
        return of_p, of_q


def _excess(x: Tensor, psi: Tensor) -> Tensor:
    """Return f(x) = x ψ(x) − ln Γ(x) − x; by Stirling's series where the terms would cancel."""
    inverse = 1 / x.clamp(min=FAR)
    series = (inverse**3 / 90).sub_(inverse / 6).sub_(0.5 * (1 + math.log(2 * math.pi)))
    series.sub_(inverse.log_(), alpha=0.5)
    return torch.where(x > FAR, series, (x * psi).sub_(x.lgamma()).sub_(x))


def _slope(x: Tensor, y: Tensor) -> Tensor:
    """Return f'(x) − y ψ'(x), in which f'(x) = x ψ'(x) − 1 would cancel far off."""
    trigamma = x.polygamma(1)
    slope = torch.where(x > FAR, _far_slope(x), (x * trigamma).sub_(1))
    return slope.sub_(y * trigamma)


def _far_slope(x: Tensor) -> Tensor:
    """Return 1/2x + 1/6x² − 1/30x⁴, which f' is far off."""
    inverse = 1 / x.clamp(min=FAR)  # its powers vanish; those of x overflow
    return ((inverse * inverse).div_(-30).add_(1 / 6) * inverse).add_(0.5) * inverse


@MODELS.register_module()
class ProxyDirichletLoss(Loss):
    r"""Proxy-Dirichlet distillation; see :func:`proxy_dirichlet`.

    Args:
        direction: 'reverse' for KL(Dir α‖Dir β) / Σβ, or 'forward' for KL(Dir β‖Dir α).
        offset: Added to the concentrations of both sides.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> members = torch.tensor([[[1., 3.]], [[3., 1.]]]).log()
        >>> ProxyDirichletLoss(loss_weight=10.)(torch.zeros(1, 2), members)
        tensor(0.0610)
    """

    roles = dict(student=Map(class_logits=True), teachers=Running(class_logits=True))

    def __init__(
        self,
        direction: str = 'reverse',
        offset: float = 1.0,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_choice('direction', direction, DIRECTIONS)
        check_non_negative('offset', offset)
        self.direction, self.offset = direction, offset

    def running(self) -> EnsembleStatistics:
        """Return empty statistics, for members that come one after the other."""
        return EnsembleStatistics()

    def forward(
        self, student: Tensor, teachers: Tensor | EnsembleStatistics, mask: Tensor | None = None
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) and (M, N, C, \*S) under a mask."""
        return self.loss_weight * proxy_dirichlet(
            student, teachers, self.direction, self.offset, mask
        )
