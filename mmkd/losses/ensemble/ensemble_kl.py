"""Ensemble distillation (EnD): the mean of the ensemble as target."""

import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.base import Loss, Map, Running
from mmkd.losses.ensemble.statistics import EnsembleStatistics, read_ensemble
from mmkd.losses.functional import fill_masked, kl_divergence, masked_mean, no_autocast, widen
from mmkd.registry import MODELS

MEANS = ('prob',)  # what is read of the members


def ensemble_kl(
    student: Tensor,
    teachers: Tensor | EnsembleStatistics,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Divergence of the student's class distribution from the mean of the members'.

    Paper: Malinin et al., Ensemble Distribution Distillation, ICLR 2020, arXiv 1905.00076 (EnD, the
    baseline there).

    .. math:: \ell = T^2 \frac{1}{|V|} \sum_{i \in V} \mathrm{KL}\Big(\frac1M \sum_m
              \mathrm{softmax}(z_i^{(m)} / T) \Big\Vert \mathrm{softmax}(z_i / T)\Big)

    Normaliser: summed over classes, averaged over the valid positions V of the whole batch.

    It keeps what the members predict on average and loses how they disagree. The authors' code
    minimises the cross-entropy, this plus the entropy of the mean, and divides by the number of
    classes too. For members that are all equal it is :func:`pixel_wise_kl`. Computed in float64.

    Args:
        student: Logits (N, C, \*S), any number of spatial axes, none included.
        teachers: Logits of the members (M, N, C, \*S), M ≥ 2, or :class:`EnsembleStatistics` of
            them, taken at the same temperature without smoothing; receives no gradient.
        temperature: T, of both sides.
        mask: Bool (N, \*S), True where a position counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: fewer than two members, shapes that do not fit, a single class, a bad
            temperature.
        TypeError: a mask that is not bool.

    Examples:
        >>> import torch
        >>> members = torch.tensor([[[1., 3.]], [[3., 1.]]]).log()  # mean (1/2, 1/2)
        >>> ensemble_kl(torch.tensor([[1., 3.]]).log(), members)  # ½ ln 2 + ½ ln 2/3
        tensor(0.1438)
    """
    statistics = read_ensemble(student, teachers, temperature, mask=mask, means=MEANS)
    with no_autocast(student):
        mean_prob = fill_masked(statistics.mean_prob, mask)
        z = fill_masked(student, mask).double() / temperature
        divergence = kl_divergence(mean_prob, F.log_softmax(z, 1))
        return (temperature**2 * masked_mean(divergence, mask)).to(widen(student)[0].dtype)


@MODELS.register_module()
class EnsembleKLLoss(Loss):
    r"""Distillation of an ensemble's mean; see :func:`ensemble_kl`.

    Args:
        temperature: T, read at each call: a schedule may change it while training.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> members = torch.tensor([[[1., 3.]], [[3., 1.]]]).log()
        >>> EnsembleKLLoss(loss_weight=10.)(torch.tensor([[1., 3.]]).log(), members)
        tensor(1.4384)
    """

    roles = dict(student=Map(class_logits=True), teachers=Running(class_logits=True))

    def __init__(
        self, temperature: float = 1.0, loss_weight: float = 1.0, loss_name: str | None = None
    ) -> None:
        super().__init__(loss_weight, loss_name)
        self.temperature = temperature
        self.running()  # refuses a bad temperature now

    def running(self) -> EnsembleStatistics:
        """Return empty statistics at today's temperature, for members one after the other."""
        return EnsembleStatistics(self.temperature, means=MEANS)

    def forward(
        self, student: Tensor, teachers: Tensor | EnsembleStatistics, mask: Tensor | None = None
    ) -> Tensor:
        r"""Return the weighted loss of logits (N, C, \*S) and (M, N, C, \*S) under a mask."""
        return self.loss_weight * ensemble_kl(student, teachers, self.temperature, mask)
