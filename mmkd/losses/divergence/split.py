"""KL of class distributions, split in two sets of classes: their masses, and within each."""

import torch
from torch import Tensor

from mmkd.losses.functional import counted, fill_masked, labelled


def split_kl(
    student: Tensor,
    teacher: Tensor,
    front: Tensor,
    some: Tensor,
    tau: float = 1.0,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return KL(teacher‖student) of both masses, within the front, and within the rest, (N, \*S).

    With the teacher's masses m as factors of the last two they add up to KL of all classes.

    Args:
        student: Logits (N, C, \*S).
        teacher: Logits of the same shape.
        front: True at the classes of the first set, (N, C, \*S); neither set is empty anywhere.
        some: A class of the first set and one of the others, (N, 2, \*S).
        tau: What logits are divided by.
        counts: Bool (N, \*S), True where a position counts; elsewhere logits are taken for 0.

    >>> front, some = torch.tensor([[True, True, False]]), torch.tensor([[0, 2]])
    >>> split_kl(torch.zeros(1, 3), torch.tensor([[1., 3., 4.]]).log(), front, some)
    (tensor([0.0589]), tensor([0.1308]), tensor([0.]))
    """
    rest = ~front
    (log_m, log_s), (log_n, log_t) = (
        _within(fill_masked(z, counts) / tau, front, rest, some) for z in (student, teacher)
    )
    masses = (log_n.exp() * (log_n - log_m)).sum(1)
    each = (log_t - log_s) * log_t.exp_()  # in this order
    return masses, each.masked_fill(rest, 0).sum(1), each.masked_fill(front, 0).sum(1)


def _within(z: Tensor, front: Tensor, rest: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of both masses (N, 2, …) and of each class within its own set."""
    of_front = z.masked_fill(rest, -torch.inf).log_softmax(1)
    within = of_front.where(front, z.masked_fill(front, -torch.inf).log_softmax(1))
    # A log-sum-exp: the logarithm of a sum of probabilities is −∞ where one class is certain.
    sizes = z.gather(1, some) - within.gather(1, some)
    return sizes.log_softmax(1), within


def known_labels(labels: Tensor, valid: Tensor) -> Tensor:
    r"""Return each position's label (N, \*S), class 0 where there is none.

    >>> known_labels(torch.tensor([2, 255]), torch.tensor([True, False]))
    tensor([2, 0])
    """
    return labels.where(valid, labels.new_zeros(())).long()


def one_hot(labels: Tensor, valid: Tensor, classes: int) -> Tensor:
    r"""Return True at each position's label (N, C, \*S); at class 0 where there is none.

    >>> one_hot(torch.tensor([2, 255]), torch.tensor([True, False]), 3)
    tensor([[False, False,  True],
            [ True, False, False]])
    """
    labels = known_labels(labels, valid)
    each = torch.arange(classes, device=labels.device)
    return labels.unsqueeze(1) == each.view(-1, *[1] * (labels.dim() - 1))


def at_labels(
    labels: Tensor, classes: int, ignore_index: int, mask: Tensor | None, weight: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    r"""Return where there is a label, where it counts (N, \*S), and which it is, :func:`one_hot`.

    >>> labels, weight = torch.tensor([1, 255, 0]), torch.tensor([1., 1., 0.])
    >>> at_labels(labels[None], 2, 255, None, weight[None])[:2]
    (tensor([[ True, False,  True]]), tensor([[ True, False, False]]))
    """
    valid = labelled(labels, classes, ignore_index, mask)
    return valid, counted(valid, weight), one_hot(labels, valid, classes)
