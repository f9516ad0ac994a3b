"""Attention transfer: where the energy of the features lies, whatever channels hold it."""

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.functional import fill_masked, no_autocast, unit_vectors, weighted_mean, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import check_positive


def attention_transfer(
    student: Tensor,
    teacher: Tensor,
    power: float = 2.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared difference of the maps of attention of student and teacher.

    Paper: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, arXiv 1612.03928,
    activation-based.

    .. math:: Q_{ni} = \frac{A_{ni}}{\Vert A_n \Vert_2}, \quad A_{ni} = \sum_c |F_{nci}|^p,
              \qquad L = \frac{1}{|V|} \sum_{(n, i) \in V} P_n (Q^s_{ni} - Q^t_{ni})^2

    Normaliser: the valid positions V of the whole batch, times the number P of valid positions of
    an image; with nothing masked it is the mean over images of the squared norm, which repeating
    a map does not change. The paper has the norm itself; the authors' code the mean of the squares
    over images and positions, 1 / P of this, so that its weights are in the thousands and belong to
    one resolution. It takes the mean over channels, which is the same after the norm.

    A mask leaves positions out of the norm too; a weight counts in the mean alone. A map of zeros
    stays one.

    Args:
        student: Map (N, Cs, \*S) with at least one spatial axis.
        teacher: Map (N, Ct, \*S) of any channels; receives no gradient.
        power: p, 1 or above.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: maps without places or of other sizes, a power below 1.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> import torch
        >>> student, teacher = torch.tensor([[[3., 0.]]]), torch.tensor([[[0., 1.], [0., 7.]]])
        >>> attention_transfer(student, teacher)  # (1, 0) against (0, 1)
        tensor(2.)
    """
    check_power(power)
    if student.dim() < 3 or (len(student), student.shape[2:]) != (len(teacher), teacher.shape[2:]):
        raise ValueError(
            'attention transfer needs maps (N, C, *S) of one size, with any channels, got student '
            f'{shape_of(student)}, teacher {shape_of(teacher)}; mend: taps of maps, '
            "connectors=dict(student='auto') for another size"
        )
    check_mask(mask, student)
    check_weight(weight, student)
    with no_autocast(student):
        student, teacher = widen(student, teacher.detach())
        ours, theirs = (_attention(x, power, mask) for x in (student, teacher))
        places = ours.shape[1] if mask is None else mask.flatten(1).sum(1, keepdim=True)
        squares = (places * (ours - theirs).square()).view(len(student), *student.shape[2:])
        return weighted_mean(squares, mask, weight)


def _attention(x: Tensor, power: float, mask: Tensor | None) -> Tensor:
    """Return Q (N, P)."""
    return unit_vectors(energy_of(fill_masked(x, mask), power).flatten(1))


def energy_of(x: Tensor, power: float) -> Tensor:
    r"""Return the sum over channels of abs(x)^p, (N, \*S), but for a factor of each image.

    >>> energy_of(torch.tensor([[[3., 0.], [1., -1.]]]), 2)  # (9 + 1, 0 + 1) / 3²
    tensor([[1.1111, 0.1111]])
    """
    # Scaled by the largest entry first, so that powers and their sums stay numbers of float32.
    size = x.detach().abs().amax(tuple(range(1, x.dim())), keepdim=True)
    x = x / size.where(size > torch.finfo(x.dtype).tiny, 1)
    return (x.square() if power == 2 else x.abs().pow(power)).sum(1)


def check_power(power: float) -> None:
    """Refuse a power below 1.

    Raises:
        ValueError: Says why.

    >>> check_power(1.0)
    """
    check_positive('power', power)
    if power < 1:
        raise ValueError(
            f'power must be 1 or above, got {power!r}: below it the gradient at 0 is infinite. '
            'Mend: power=2.0'
        )


@MODELS.register_module()
class AttentionTransferLoss(Loss):
    r"""Transfer of attention maps; see :func:`attention_transfer`.

    Args:
        power: p of the sum over channels of \|F\|^p, 1 or above.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> import torch
        >>> student, teacher = torch.tensor([[[2., 1.]]]), torch.tensor([[[1., 2.]]])
        >>> AttentionTransferLoss(power=1.)(student, teacher)  # (2 − 1)² / 5 + (1 − 2)² / 5
        tensor(0.4000)
    """

    roles = dict(student=Map(alike=('size',)), teacher=Map(alike=('size',)))

    def __init__(
        self, power: float = 2.0, loss_weight: float = 1.0, loss_name: str | None = None
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_power(power)
        self.power = power

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under mask and weight (N, \*S)."""
        return self.loss_weight * attention_transfer(student, teacher, self.power, mask, weight)
