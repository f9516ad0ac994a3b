"""Residual attention: how the places that features look at change from one layer to another."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Many
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.features.attention_transfer import check_power, energy_of
from mmkd.losses.functional import fill_masked, no_autocast, unit_vectors, weighted_mean, widen
from mmkd.losses.relations.nodes import averaged_to, resized
from mmkd.registry import MODELS

LEAST = 1e-3  # of the norm of a residual; those of attention are 1


def residual_attention(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    power: float = 2.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared difference of the differences between the maps of attention of any two layers.

    Paper: Feng et al., Double Similarity Distillation for Semantic Image Segmentation (DSD), TIP
    2021, arXiv 2107.08591, its pixel-wise similarity (PSD). Of layers l and the K pairs l < m:

    .. math:: A^l_{ni} = \frac{\sum_c |F^l_{nci}|^p}{\Vert \cdot \Vert_2}, \quad
              R^{lm}_{ni} = \frac{A^m_{ni} - A^l_{ni}}{\max(\Vert \cdot \Vert_2, 10^{-3})}, \qquad
              L = \frac1K \sum_{l < m} \frac{1}{|V|} \sum_{(n, i) \in V} P_n (R^{s, lm}_{ni} -
              R^{t, lm}_{ni})^2

    norms over the places of an image. The formula is that of CIRKD's comparison, since no code of
    the authors was to be had. It averages over positions, 1 / P of this, so that its weight of 1000
    belongs to one resolution.

    Normaliser: the valid positions V of the whole batch, times the number P of valid positions of
    an image, as :func:`mmkd.losses.features.attention_transfer.attention_transfer` does. Where
    layers differ in size all are averaged to the first one of the student.

    A mask leaves positions out of the norms too; a weight counts in the mean alone. Two layers that
    look at the same places have a residual of 0. Where they all but do its direction is that of the
    rounding, and its slope 1 / norm: hence the least norm, which CIRKD's has not.

    Args:
        student: Maps (N, C, \*S) of two layers or more, each of channels of its own.
        teacher: As many maps of any channels; receive no gradient.
        power: p, 1 or above.
        mask: Bool (N, \*S) of the student's first map, True where a position counts.
        weight: Float likewise, 0 or above: how much it counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: fewer than two layers, lists of other lengths, maps without places or of other
            images, a power below 1.
        TypeError: no lists, a mask that is not bool, a weight that is no float.

    Examples:
        >>> left, right = torch.tensor([[[1., 0.]]]), torch.tensor([[[0., 1.]]])
        >>> residual_attention([left, right], [right, left])  # (−1, 1) / √2 against (1, −1) / √2
        tensor(4.0000)
    """
    check_power(power)
    _check(student, teacher)
    first = student[0]
    check_mask(mask, first)
    check_weight(weight, first)
    with no_autocast(first):
        wide = widen(*student, *(x.detach() for x in teacher))
        size = first.shape[2:]
        own = None if mask is None else mask.unsqueeze(1).to(wide[0].dtype)
        energies = (_energy(x, power, own, size) for x in wide)
        seen = [unit_vectors(fill_masked(x, mask).flatten(1)) for x in energies]
        count = len(student)
        places = seen[0].shape[1] if mask is None else mask.flatten(1).sum(1, keepdim=True)
        total = wide[0].new_zeros(())
        for low, high in combinations(range(count), 2):
            ours, theirs = (_residual(seen[low + side], seen[high + side]) for side in (0, count))
            squares = (places * (ours - theirs).square()).view(len(first), *size)
            total = total + weighted_mean(squares, mask, weight)
        return total / (count * (count - 1) / 2)


def _residual(low: Tensor, high: Tensor) -> Tensor:
    """Return the change between two unit vectors, of norm 1 unless it is all but nothing."""
    change = high - low
    return change * change.square().sum(-1, keepdim=True).clamp(min=LEAST**2).rsqrt()


def _energy(x: Tensor, power: float, own: Tensor | None, size: torch.Size) -> Tensor:
    r"""Return the energy of a map at a size, (N, 1, \*size)."""
    if own is not None:  # before any power: what does not count may be no number
        x = fill_masked(x, resized(own, x.shape[2:]).squeeze(1) > 0)
    return averaged_to(energy_of(x, power).unsqueeze(1), own, size)


def _check(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    for role, maps in (('student', student), ('teacher', teacher)):
        if not isinstance(maps, list | tuple):
            raise TypeError(
                f'{role} must be a list of maps, one a layer, got {type(maps).__name__}; mend: '
                f"reads=dict({role}=['{role}.feat', '{role}.logits'])"
            )
    shapes = f'student {[*map(shape_of, student)]}, teacher {[*map(shape_of, teacher)]}'
    if len(student) < 2 or len(student) != len(teacher):
        raise ValueError(
            'residual attention compares two layers or more, as many of either side, got '
            f"{shapes}; mend: reads=dict(student=['student.feat', 'student.logits'], …)"
        )
    if len({(len(x), x.dim()) for x in (*student, *teacher)}) > 1 or student[0].dim() < 3:
        raise ValueError(
            'residual attention needs maps (N, C, *S) of the same images, one to three spatial '
            f'axes, got {shapes}; mend: taps of maps'
        )


@MODELS.register_module()
class ResidualAttentionLoss(Loss):
    r"""Changes of attention between layers (DSD's pixel term); see :func:`residual_attention`.

    Student and teacher are lists of taps, layer beside layer.

    Args:
        power: p of the sum over channels of \|F\|^p, 1 or above.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> left, right = torch.tensor([[[1., 0.]]]), torch.tensor([[[0., 1.]]])
        >>> ResidualAttentionLoss(loss_weight=0.5)([left, right], [right, left])
        tensor(2.0000)
    """

    roles = dict(student=Many(), teacher=Many())

    def __init__(
        self, power: float = 2.0, loss_weight: float = 1.0, loss_name: str | None = None
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_power(power)
        self.power = power

    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted loss of lists of maps, under mask and weight of the first."""
        return self.loss_weight * residual_attention(student, teacher, self.power, mask, weight)
