"""Uncertainty and where it comes from: closed forms of a Dirichlet, sums over an ensemble."""

import torch
from torch import Tensor

from mmkd.losses.checks import shape_of
from mmkd.losses.functional import kl_divergence, no_autocast
from mmkd.utils.checks import check_choice, check_non_negative


def concentration(logits: Tensor, offset: float = 0.0) -> Tensor:
    r"""Return the Dirichlet that a network's logits describe: α = exp(z) + offset, in float64.

    Paper: Malinin et al., Ensemble Distribution Distillation, ICLR 2020, arXiv 1905.00076 (offset
    0); Ryabinin et al., Scaling Ensemble Distribution Distillation, NeurIPS 2021 (offset 1). Class
    probabilities stay softmax(z) whatever the offset, as in the authors' code: the offset belongs
    to the uncertainties alone.

    Args:
        logits: (N, C, \*S).
        offset: Added to every α, 0 or more.

    Raises:
        ValueError: A negative offset.

    >>> concentration(torch.tensor([[0., 0.]]), offset=1.)
    tensor([[2., 2.]], dtype=torch.float64)
    """
    check_non_negative('offset', offset)
    with no_autocast(logits):
        # The bounds keep α above 0 and its sum finite, where exp leaves float64.
        return (logits.double().exp() + offset).clamp(torch.finfo(torch.float64).tiny, 1e300)


def check_outputs(outputs: str, allowed: tuple[str, ...], offset: float) -> None:
    """Refuse an unknown reading of the network's output, and an offset that it would not use.

    Raises:
        ValueError: Says what is allowed.
    """
    check_choice('outputs', outputs, allowed)
    check_non_negative('offset', offset)
    if offset and outputs != 'dirichlet':
        raise ValueError(
            f"offset={offset} is added to a Dirichlet's α, which outputs={outputs!r} does not "
            "have. Mend: outputs='dirichlet', or leave offset out"
        )


def dirichlet_uncertainty(alpha: Tensor) -> dict[str, Tensor]:
    r"""Split the uncertainty of a Dirichlet over class distributions, in closed form.

    Paper: Malinin et al., Ensemble Distribution Distillation, ICLR 2020, arXiv 1905.00076, section
    3, and the authors' code. With :math:`\alpha_0 = \sum_k \alpha_k` and :math:`\hat\pi = \alpha /
    \alpha_0`:

    .. math::
        \text{total} &= -\sum_k \hat\pi_k \ln \hat\pi_k \\
        \text{data} &= -\sum_k \hat\pi_k (\psi(\alpha_k + 1) - \psi(\alpha_0 + 1)) \\
        \text{knowledge} &= \text{total} - \text{data} \\
        \text{epkl} &= (K - 1) / \alpha_0 \\
        \text{mkl} &= \sum_k \hat\pi_k (\ln \hat\pi_k - \psi(\alpha_k) + \psi(\alpha_0)) =
        \text{epkl} -
                      \text{knowledge} \\
        \text{differential\_entropy} &= \sum_k \ln\Gamma(\alpha_k) - \ln\Gamma(\alpha_0)
                      - \sum_k (\alpha_k - 1)(\psi(\alpha_k) - \psi(\alpha_0))

    ``knowledge`` is the mutual information of class and class distribution, ``epkl`` the expected
    KL between two draws, ``mkl`` that from the mean to a draw. All are in nats; all but the
    differential entropy are 0 or more.

    Args:
        alpha: Concentrations (N, C, \*S), above 0; read in float64.

    Returns:
        Name -> (N, \*S), float64.

    Raises:
        ValueError: A single class or none, or a value that is not above 0.

    Examples:
        >>> flat = dirichlet_uncertainty(torch.ones(1, 2))  # uniform over two classes' simplex
        >>> # ln 2, 1/2, ln 2 - 1/2, 1/2, 1 - ln 2, 0
        >>> {name: round(value.item(), 4) for name, value in flat.items()}
        {'total': 0.6931, 'data': 0.5, 'knowledge': 0.1931, 'epkl': 0.5, 'mkl': 0.3069,
        'differential_entropy': 0.0}
    """
    _check_classes('alpha', alpha.shape, alpha.dim() - 2)
    with no_autocast(alpha):
        alpha = alpha.double()
        if not (alpha > 0).all():
            raise ValueError(
                f"a Dirichlet's alpha must be above 0, got {alpha.min().item():g}. Mend: "
                'concentration(logits) turns logits into alpha'
            )
        alpha0 = alpha.sum(1, keepdim=True)
        mean = alpha / alpha0
        total = entropy(mean)
        data = -(mean * (torch.digamma(alpha + 1) - torch.digamma(alpha0 + 1))).sum(1)
        digamma = torch.digamma(alpha) - torch.digamma(alpha0)
        mkl = kl_divergence(mean, digamma)
        differential = (torch.lgamma(alpha) - (alpha - 1) * digamma).sum(1) - torch.lgamma(
            alpha0
        ).squeeze(1)
        return dict(
            total=total,
            data=data,
            knowledge=(total - data).clamp(min=0),
            epkl=(alpha.shape[1] - 1) / alpha0.squeeze(1),
            mkl=mkl.clamp(min=0),
            differential_entropy=differential,
        )


def ensemble_uncertainty(probs: Tensor) -> dict[str, Tensor]:
    r"""Split the uncertainty of an ensemble of distributions; see :class:`EnsembleUncertainty`.

    Args:
        probs: Probabilities of every member, (M, N, C, \*S).

    Returns:
        total, data, knowledge, epkl and mkl, each (N, \*S), float64.

    Raises:
        ValueError: Fewer than two members or than two classes.

    Examples:
        >>> sure = torch.tensor([[[1., 0.]], [[0., 1.]]])  # two members, certain of other classes
        >>> ensemble_uncertainty(sure)['knowledge'].exp()  # all uncertainty is knowledge: ln 2
        tensor([2.], dtype=torch.float64)
    """
    _check_classes('probs', probs.shape[1:], probs.dim() - 3)
    sums = EnsembleUncertainty()
    for member in probs:
        sums.update(member)
    return sums.compute()


class EnsembleUncertainty:
    r"""Running sums over the members of an ensemble: memory does not grow with their number M.

    Paper: Malinin et al., Ensemble Distribution Distillation, ICLR 2020, arXiv 1905.00076, eq. 4.
    With :math:`\bar\pi = \frac1M \sum_m \pi^{(m)}`:

    .. math::
        \text{total} &= \mathcal{H}[\bar\pi], \quad \text{data} = \frac1M \sum_m
        \mathcal{H}[\pi^{(m)}], \quad \text{knowledge} = \text{total} - \text{data} \\
        \text{mkl} &= \frac1M \sum_m \mathrm{KL}(\bar\pi \Vert \pi^{(m)}), \quad
        \text{epkl} = \frac{1}{M^2} \sum_{m,l} \mathrm{KL}(\pi^{(m)} \Vert \pi^{(l)})
                    = \text{knowledge} + \text{mkl}

    The authors' code of the proxy paper sums epkl over the M² pairs; this is their mean. Logarithms
    of probabilities below the smallest normal number of their dtype are taken there, so a member
    that excludes a class gives a large mkl, not an infinite one.

    Attributes:
        count: How many members were seen.

    Examples:
        >>> sums = EnsembleUncertainty()
        >>> for member in torch.tensor([[[0.5, 0.5]], [[0.5, 0.5]]]):
        ...     sums.update(member)
        >>> sums.mean, sums.compute()['knowledge']
        (tensor([[0.5000, 0.5000]], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """

    def __init__(self) -> None:
        self.count = 0
        self._prob = self._log_prob = self._entropy = torch.zeros(())

    @torch.no_grad()
    def update(self, probs: Tensor) -> None:
        r"""Take in one member's probabilities (N, C, \*S).

        Raises:
            ValueError: Another shape than the members before it.
        """
        if self.count and probs.shape != self._prob.shape:
            what = (
                'disagree on classes'
                if probs.shape[1] != self._prob.shape[1]
                else 'differ in shape'
            )
            raise ValueError(
                f'the members of an ensemble {what}: {tuple(self._prob.shape)} before, now '
                f'{shape_of(probs)}. Mend: members of the same classes, tested on the same images'
            )
        if not self.count:
            self._prob, self._log_prob, self._entropy = (
                torch.zeros_like(x, dtype=torch.float64) for x in (probs, probs, probs[:, 0])
            )
        with no_autocast(probs):
            tiny = torch.finfo(probs.dtype).tiny
            probs = probs.double()
            self._prob += probs
            self._log_prob += probs.clamp(min=tiny).log()
            self._entropy += entropy(probs)
        self.count += 1

    @property
    def mean(self) -> Tensor:
        r"""The ensemble's prediction π̄, (N, C, \*S), float64."""
        return self._prob / self.count

    def compute(self) -> dict[str, Tensor]:
        r"""Return total, data, knowledge, epkl and mkl, each (N, \*S), float64.

        Raises:
            ValueError: Fewer than two members were seen.
        """
        if self.count < 2:
            raise ValueError(
                f'an ensemble has two members or more, got {self.count}: one alone disagrees with '
                'nobody. Mend: train more with mmkd train-ensemble'
            )
        mean = self.mean
        total, data = entropy(mean), self._entropy / self.count
        mkl = -total - (mean * self._log_prob).sum(1) / self.count
        knowledge = (total - data).clamp(min=0)
        return dict(
            total=total,
            data=data,
            knowledge=knowledge,
            epkl=knowledge + mkl.clamp(min=0),
            mkl=mkl.clamp(min=0),
        )


def entropy(probs: Tensor) -> Tensor:
    r"""Return −Σ_c p_c ln p_c of probabilities (N, C, \*S), 0 · ln 0 being 0.

    >>> entropy(torch.tensor([[1., 0.], [0.5, 0.5]]))
    tensor([0.0000, 0.6931])
    """
    return torch.special.entr(probs).sum(1)


def _check_classes(name: str, shape: torch.Size, spatial: int) -> None:
    if spatial < 0 or shape[1] < 2:
        leading = '(M, N, C, *S)' if name == 'probs' else '(N, C, *S)'
        raise ValueError(
            f'{name} must be {leading} with two classes or more, got '
            f'{tuple(shape)}{" for one member" if name == "probs" else ""}'
        )
