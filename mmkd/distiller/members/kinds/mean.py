"""Mean: what members say on average."""

import math

from torch import Tensor

from mmkd.distiller.members.kinds.combine import Combine
from mmkd.losses.checks import check_classes
from mmkd.losses.functional import widen
from mmkd.registry import KINDS
from mmkd.utils.checks import check_choice

SPACES = ('probabilities', 'values')


@KINDS.register_module(name='mean')
class Mean(Combine):
    r"""The mean of members: of their class probabilities, or of the tensors as they are.

    .. math:: \bar p_{ic} = \frac{1}{M} \sum_m \mathrm{softmax}(z_i^m)_c

    What it says are the logits ln p̄, so that their softmax is the mean. Every one of M members
    counts alike; of those that ``drop`` leaves over, likewise.

    Args:
        space: 'probabilities', or 'values' (of features, or of logits).
        drop: How likely each member is left out of a step.

    Raises:
        ValueError: An unknown space; ``drop`` is out of range.

    Examples:
        >>> import torch
        >>> sure, other = torch.tensor([[3., 1.]]).log(), torch.tensor([[1., 3.]]).log()
        >>> Mean()([sure, other]).exp()  # (3/4 + 1/4) / 2
        tensor([[0.5000, 0.5000]])
        >>> Mean(space='values')([torch.tensor([[1.]]), torch.tensor([[4.]])])
        tensor([[2.5000]])
    """

    def __init__(self, space: str = 'probabilities', drop: float = 0.0) -> None:
        super().__init__(drop)
        check_choice('space', space, SPACES)
        self.space = space
        self.reads_classes = space == 'probabilities'

    def combine(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the logarithm of the mean probability, or the mean."""
        return values.mean(0) if self.space == 'values' else log_mean(values)


def log_mean(logits: Tensor) -> Tensor:
    r"""Return the logarithm of the mean probability of members' logits (M, N, C, \*S).

    Raises:
        ValueError: There is a single class.
    """
    check_classes(logits[0])
    return widen(logits)[0].log_softmax(2).logsumexp(0) - math.log(len(logits))
