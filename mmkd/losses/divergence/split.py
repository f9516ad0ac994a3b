"""KL of class distributions, split in two sets of classes: their masses, and within each."""

import torch
from torch import Tensor


def split_kl(student: Tensor, teacher: Tensor, front: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return KL(teacher‖student) of both masses, within the front, and within the rest, (N, \*S).

    With the teacher's masses m as factors of the last two they add up to KL of all classes.

    Args:
        student: Logits (N, C, \*S).
        teacher: Logits of the same shape.
        front: True at the classes of the first set, (N, C, \*S); neither set is empty anywhere.

    >>> front = torch.tensor([[True, True, False]])
    >>> split_kl(torch.zeros(1, 3), torch.tensor([[1., 3., 4.]]).log(), front)
    (tensor([0.0589]), tensor([0.1308]), tensor([0.]))
    """
    (log_m, log_s), (log_n, log_t) = (_within(z, front) for z in (student, teacher))
    masses = (log_n.exp() * (log_n - log_m)).sum(1)
    each = log_t.exp() * (log_t - log_s)
    zero = each.new_zeros(())
    return masses, each.where(front, zero).sum(1), each.where(~front, zero).sum(1)


def _within(z: Tensor, front: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of both masses (N, 2, …) and of each class within its own set."""
    # From log-sum-exps: the logarithm of a sum of probabilities is −∞ where one class is certain.
    sizes = [z.masked_fill(~own, -torch.inf).logsumexp(1) for own in (front, ~front)]
    of_front, of_rest = (size.unsqueeze(1) for size in sizes)
    return torch.stack(sizes, 1).log_softmax(1), z - of_front.where(front, of_rest)


def one_hot(labels: Tensor, labelled: Tensor, classes: int) -> Tensor:
    r"""Return True at each position's label (N, C, \*S); at class 0 where there is none.

    >>> one_hot(torch.tensor([2, 255]), torch.tensor([True, False]), 3)
    tensor([[False, False,  True],
            [ True, False, False]])
    """
    labels = labels.where(labelled, labels.new_zeros(()))
    each = torch.arange(classes, device=labels.device)
    return labels.unsqueeze(1) == each.view(-1, *[1] * (labels.dim() - 1))
