"""KL of class distributions, split in two sets of classes: their masses, and within each."""

import torch
from torch import Tensor

from mmkd.losses.functional import counted, fill_masked, labelled


def split_kl(
    student: Tensor,
    teacher: Tensor,
    front: Tensor,
    tau: float = 1.0,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return KL(teacher‖student) of both masses, within the front, and within the rest, (N, \*S).

    With the teacher's masses m as factors of the last two they add up to KL of all classes.

    Args:
        student: Logits (N, C, \*S).
        teacher: Logits of the same shape.
        front: True at the classes of the first set, (N, C, \*S); neither set is empty anywhere.
        tau: What logits are divided by.
        counts: Bool (N, \*S), True where a position counts; elsewhere logits are taken for 0.

    >>> front = torch.tensor([[True, True, False]])
    >>> split_kl(torch.zeros(1, 3), torch.tensor([[1., 3., 4.]]).log(), front)
    (tensor([0.0589]), tensor([0.1308]), tensor([0.]))
    """
    rest = ~front
    # The teacher first, and in place: few maps are alive at once.
    (log_n, log_t), (log_m, log_s) = (
        _within(fill_masked(z, counts) / tau, front, rest) for z in (teacher, student)
    )
    masses = (log_n.exp() * (log_n - log_m)).sum(1)
    each = log_s.sub_(log_t).mul_(log_t.exp_().neg_())
    return masses, each.masked_fill(rest, 0).sum(1), each.masked_fill(front, 0).sum(1)


def _within(z: Tensor, front: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of both masses (N, 2, …) and of each class within its own set.

    The latter take the place of ``z``.
    """
    # Each set by its own largest: of a sum over all nothing is left where one class is certain.
    tops = [z.detach().masked_fill(x, -torch.inf).amax(1, keepdim=True) for x in (rest, front)]
    z = z.sub_(torch.where(front, tops[0], tops[1]))
    each = z.exp()
    lows = [-each.masked_fill(x, 0).sum(1, keepdim=True).log() for x in (rest, front)]
    masses = torch.cat([top - low for top, low in zip(tops, lows, strict=True)], 1)
    return masses.log_softmax(1), z.add_(torch.where(front, lows[0], lows[1]))


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
