"""Ensemble Distribution Distillation: predictions of members are samples of a Dirichlet."""

import math

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map, Running
from mmkd.losses.ensemble.statistics import EnsembleStatistics, read_ensemble
from mmkd.losses.functional import fill_masked, infinite_to_nan, masked_mean, no_autocast, widen
from mmkd.registry import MODELS

SMOOTHING = 1e-3
MEANS = ('log_prob',)  # what is read of the members


def dirichlet_nll(
    student: Tensor,
    teachers: Tensor | EnsembleStatistics,
    temperature: float = 1.0,
    smoothing: float = SMOOTHING,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Negative log-likelihood of the members' class distributions under the student's Dirichlet.

    Paper: Malinin et al., Ensemble Distribution Distillation, ICLR 2020, arXiv 1905.00076 (EnD²).

    .. math:: \ell = T^2 \frac{1}{|V|} \sum_{i \in V} \frac1M \sum_m
              -\ln \mathrm{Dir}(\pi_i^{(m)}; \alpha_i)
              = \frac{T^2}{|V|} \sum_{i \in V} \Big[ \sum_k \ln\Gamma(\alpha_k)
              - \ln\Gamma(\alpha_0) - \sum_k (\alpha_k - 1) \frac1M \sum_m \ln \pi_k^{(m)} \Big]

    with α = exp(z / T), α₀ = Σ α and π = (1−ε) softmax(z_m / T) + ε / K. A density, so values below
    0 are usual.

    Normaliser: summed over classes, averaged over members and over the valid positions V of the
    whole batch.

    At T = 1 with many classes the unlikely ones dominate the gradient: anneal the temperature from
    10 to 1 (see :class:`mmkd.engine.hooks.ScheduleHook`) or use ProxyDirichletLoss. The authors'
    code writes the smoothing as (1−ε)(π − 1/K) + 1/K, which is the same, and adds 1e-8 to π in the
    logarithm and to α in ln Γ, which is left out here: the smoothing keeps π away from 0, and α
    does not reach 0 in float64.

    Computed in float64. z / T is clipped to [−700, ¾ ln(largest number of the returned dtype)],
    that is to 66 for float32, so that neither exp nor ln Γ overflows; a logit beyond that has no
    gradient.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teachers: Logits of the members (M, N, C, \*S), M ≥ 2, or :class:`EnsembleStatistics` of
            them, taken at the same temperature and smoothing; receives no gradient.
        temperature: T, of both sides.
        smoothing: ε in [0, 1) of the members.
        mask: Bool (N, \*S), True where a position counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: fewer than two members, shapes that do not fit, a single class, a bad
            temperature or smoothing.
        TypeError: a mask that is not bool.

    Examples:
        >>> members = torch.tensor([[[1., 3.]], [[3., 1.]]]).log()  # π = (1/4, 3/4) and (3/4, 1/4)
        >>> student = torch.tensor([[2., 2.]]).log()  # Dir(2, 2) has the density 6 π₁ π₂ = 18/16
        >>> dirichlet_nll(student, members, smoothing=0.)  # −ln(18/16)
        tensor(-0.1178)
    """
    statistics = read_ensemble(student, teachers, temperature, smoothing, mask, MEANS)
    with no_autocast(student):
        mean_log_prob = fill_masked(statistics.mean_log_prob, mask)
        alpha = clipped_concentration(student, temperature, mask)
        # Sum by sum, ln Γ of the map last: of float64 few maps are alive at once, backward too.
        nll = mean_log_prob.sum(1) - (alpha * mean_log_prob).sum(1) - alpha.sum(1).lgamma()
        nll = nll + alpha.lgamma().sum(1)
        return (temperature**2 * masked_mean(nll, mask)).to(widen(student)[0].dtype)


def clipped_concentration(
    student: Tensor, temperature: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    r"""Return α = exp(z / T) in float64, finite for finite logits; 1 where nothing counts.

    Above 0.75 ln(the largest number of the student's dtype), 66.5 for float32, z / T is clipped, so
    that gradients stay numbers; up to there α is that of
    :func:`mmkd.evaluation.functional.uncertainty.concentration`, which tests use. A logit of NaN or
    ±Inf gives NaN.

    Args:
        student: Logits (N, C, \*S).
        temperature: T.
        mask: Bool (N, \*S).

    >>> clipped_concentration(torch.tensor([[1e4, 0., -1e4]]))
    tensor([[ 7.9228e+28,  1.0000e+00, 9.8597e-305]], dtype=torch.float64)
    """
    (z,) = widen(student)
    largest = 0.75 * math.log(torch.finfo(z.dtype).max)
    # Clipped before exp: the gradient of exp at an overflow is inf · 0.
    z = infinite_to_nan(fill_masked(z, mask)).clamp(-700.0 * temperature, largest * temperature)
    return z.double().div_(temperature).exp_()


@MODELS.register_module()
class DirichletNLLLoss(Loss):
    r"""Ensemble Distribution Distillation; see :func:`dirichlet_nll`.

    Args:
        temperature: T, read at each call: a schedule may change it while training.
        smoothing: ε of the members' distributions.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> members = torch.tensor([[[1., 3.]], [[3., 1.]]]).log()
        >>> DirichletNLLLoss(smoothing=0.)(torch.tensor([[2., 2.]]).log(), members)
        tensor(-0.1178)
    """

    roles = dict(student=Map(class_logits=True), teachers=Running(class_logits=True))

    def __init__(
        self,
        temperature: float = 1.0,
        smoothing: float = SMOOTHING,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        self.temperature, self.smoothing = temperature, smoothing
        self.running()  # refuses a bad temperature or smoothing now

    def running(self) -> EnsembleStatistics:
        """Return empty statistics at today's temperature, for members one after the other."""
        return EnsembleStatistics(self.temperature, self.smoothing, MEANS)

    def forward(
        self, student: Tensor, teachers: Tensor | EnsembleStatistics, mask: Tensor | None = None
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) and (M, N, C, \*S) under a mask."""
        return self.loss_weight * dirichlet_nll(
            student, teachers, self.temperature, self.smoothing, mask
        )
