"""KL of class distributions, split in two sets of classes: their masses, and within each."""

import torch
from torch import Tensor


def kl_of_logs(log_p: Tensor, log_q: Tensor, dim: int = 1) -> Tensor:
    """Return KL(p‖q) along an axis from logarithms; classes at −∞ on both sides are absent.

    >>> kl_of_logs(torch.tensor([[.25, .75, 0.]]).log(), torch.tensor([[.5, .5, 0.]]).log())
    tensor([0.1308])
    """
    absent = (log_p == -torch.inf) & (log_q == -torch.inf)
    gap = (log_p - log_q).where(~absent, log_p.new_zeros(()))
    return (log_p.exp() * gap).sum(dim)


def log_softmax_within(z: Tensor, chosen: Tensor) -> Tensor:
    """Return the log-softmax over chosen classes, −∞ at others.

    A mask, and not a large number that is subtracted, as official code has it.

    >>> log_softmax_within(torch.zeros(1, 3), torch.tensor([[True, True, False]])).exp()
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    return z.masked_fill(~chosen, -torch.inf).log_softmax(1)


def log_masses(z: Tensor, first: Tensor) -> Tensor:
    r"""Return the logarithms of the mass of a set of classes and of all others, (N, 2, \*S).

    From log-sum-exps: the logarithm of a sum of probabilities is −∞ where one class is certain.

    >>> log_masses(torch.zeros(1, 4), torch.tensor([[True, False, False, False]])).exp()
    tensor([[0.2500, 0.7500]])
    """
    parts = [z.masked_fill(~own, -torch.inf).logsumexp(1) for own in (first, ~first)]
    return torch.stack(parts, 1).log_softmax(1)


def one_hot(labels: Tensor, labelled: Tensor, classes: int) -> Tensor:
    r"""Return True at each position's label (N, C, \*S); at class 0 where there is none.

    >>> one_hot(torch.tensor([2, 255]), torch.tensor([True, False]), 3)
    tensor([[False, False,  True],
            [ True, False, False]])
    """
    labels = labels.where(labelled, labels.new_zeros(()))
    each = torch.arange(classes, device=labels.device)
    return labels.unsqueeze(1) == each.view(-1, *[1] * (labels.dim() - 1))
