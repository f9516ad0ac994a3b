"""Matching of features place by place: what is normalised, and what a difference costs."""

from collections.abc import Mapping
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.functional import (
    above_zero,
    cosines,
    counted,
    fill_masked,
    infinite_to_nan,
    measure_of,
    no_autocast,
    sum_over_ranks,
    unit_vectors,
    weighted_mean,
    widen,
)
from mmkd.utils.checks import check_choice, check_non_negative

NORMALISATIONS = (None, 'l2', 'sample', 'batch', 'image')
PENALTIES = ('l2', 'l1', 'huber', 'cosine')
Penalty = str | Mapping[str, float]


def point_wise(
    student: Tensor,
    teacher: Tensor,
    normalise: str | None,
    penalty: Penalty,
    mask: Tensor | None,
    weight: Tensor | None,
    name: str,
    pooled: bool = False,
) -> Tensor:
    r"""Return the mean penalty of two maps (N, C, \*S) of one shape; ``name`` is for errors."""
    check_features(student, teacher, name)
    check_mask(mask, student)
    check_weight(weight, student)
    if normalise == 'sample' and (pooled or student.dim() == 2):
        what = 'pooled=True leaves' if pooled else f'student {shape_of(student)} has'
        raise ValueError(
            f"{name}: normalise='sample' takes mean and deviation over the places of a map, and "
            f'{what} none. Mend: a tap of maps (N, C, *S), not pooled, or '
            "normalise='batch' or 'l2'"
        )
    with no_autocast(student):
        plain = normalise in (None, 'l2') and not pooled  # statistics take what weighs 0 too
        counts = counted(mask, weight) if plain else mask
        student, teacher = (fill_masked(x, counts) for x in widen(student, teacher.detach()))
        if pooled:
            student, teacher, mask = pool(student, teacher, mask, weight)
            weight = None
        student, teacher = normalised(student, teacher, normalise, mask)
        return weighted_mean(cost(student, teacher, penalty), mask, weight)


def normalised(
    student: Tensor, teacher: Tensor, how: str | None, mask: Tensor | None
) -> tuple[Tensor, ...]:
    r"""Return both maps (N, C, \*S), which are 0 where they do not count, normalised.

    >>> x = torch.tensor([[3., 4.]])
    >>> normalised(x, 2 * x, 'l2', None)
    (tensor([[0.6000, 0.8000]]), tensor([[0.6000, 0.8000]]))
    """
    if how is None:
        return student, teacher
    if how == 'l2':
        return unit_vectors(student, 1), unit_vectors(teacher, 1)
    if how == 'image':
        return unit_size(student, mask), unit_size(teacher, mask)
    return standardize(student, teacher, mask, batch=how == 'batch')


def unit_size(x: Tensor, mask: Tensor | None) -> Tensor:
    r"""Divide each image of a map (N, C, \*S) by its root mean square, over all that counts.

    Args:
        x: The map, 0 where it does not count.
        mask: Bool (N, \*S), True where a position counts.

    >>> unit_size(torch.tensor([[[1., 7.]]]), None)  # of size 5
    tensor([[[0.2000, 1.4000]]])
    """
    places: int | Tensor = prod(x.shape[2:])
    if mask is not None:
        places = mask.reshape(len(x), -1).sum(1, keepdim=True).to(x.dtype)
    return (unit_vectors(x.flatten(1)) * (x.shape[1] * places) ** 0.5).view_as(x)


def pool(
    student: Tensor, teacher: Tensor, mask: Tensor | None, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""Return the means (N, C) of both maps over the places that count, and which images have any.

    Args:
        student: Map (N, C, \*S), 0 where it does not count.
        teacher: The same of the teacher.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much it counts.

    >>> pool(torch.tensor([[[1., 3.]]]), torch.zeros(1, 1, 2), None, torch.tensor([[1., 3.]]))
    (tensor([[2.5000]]), tensor([[0.]]), tensor([True]))
    """
    own = measure_of(student, mask, weight)
    student, teacher = (mean_over(x, own) for x in (student, teacher))
    return student, teacher, None if own is None else above_zero(own.flatten(1).sum(1))


def mean_over(x: Tensor, own: Tensor | None) -> Tensor:
    r"""Return the means (N, C) over the places of a map (N, C, \*S).

    Args:
        x: The map.
        own: How much places count (N, 1, \*S); None: all alike.

    >>> mean_over(torch.tensor([[[1., 3.]]]), torch.tensor([[[1., 3.]]]))
    tensor([[2.5000]])
    """
    x = x.reshape(*x.shape[:2], -1)  # of vectors one place
    if own is None:
        return x.mean(2)
    own = own.reshape(len(x), 1, -1)
    total = own.sum(2)
    x = x.where(own > 0, x.new_zeros(()))  # a place of weight 0 may hold NaN
    return (own * x).sum(2) / total.where(above_zero(total), total.new_ones(()))


def check_penalty(penalty: Penalty) -> None:
    """Refuse what is neither a penalty nor a mix of some.

    Raises:
        ValueError: A name that is none; a mix without weights, or of one below 0.

    >>> check_penalty('huber'), check_penalty(dict(cosine=.5, huber=.5))
    (None, None)
    """
    if not isinstance(penalty, Mapping):
        check_choice('penalty', penalty, PENALTIES)
        return
    for one, weight in penalty.items():
        check_choice('penalty', one, PENALTIES)
        check_non_negative(f'penalty[{one!r}]', weight)
    if not any(penalty.values()):
        raise ValueError(
            f'a mix of penalties needs a weight above 0, got {dict(penalty)}. Mend: '
            'penalty=dict(cosine=.5, huber=.5)'
        )


def cost(student: Tensor, teacher: Tensor, penalty: Penalty) -> Tensor:
    r"""Return the penalty of every place (N, \*S): its mean over channels, or 1 − cos.

    >>> cost(torch.tensor([[0., 3.]]), torch.tensor([[.5, 1.]]), 'huber')  # (.125 + 1.5) / 2
    tensor([0.8125])
    >>> cost(torch.tensor([[0., 3.]]), torch.tensor([[0., 1.]]), dict(huber=.5, l1=2.))
    tensor([2.3750])
    """
    if isinstance(penalty, Mapping):
        parts = [w * cost(student, teacher, one) for one, w in penalty.items() if w]
        return sum(parts[1:], parts[0])
    if penalty == 'cosine':
        return 1 - cosines(student, teacher, 1)
    if penalty == 'huber':
        return F.huber_loss(student, teacher, reduction='none').mean(1)
    if penalty == 'l1':
        return (student - teacher).abs().mean(1)
    return F.mse_loss(student, teacher, reduction='none').mean(1)


def standardize(
    student: Tensor, teacher: Tensor, mask: Tensor | None, batch: bool
) -> tuple[Tensor, ...]:
    r"""Give every channel mean 0 and variance 1 over its valid places, on each side.

    Statistics are those of each image or of the whole batch, of all ranks. A channel that is
    constant, to rounding, becomes 0 and gets no gradient.

    Args:
        student: Map (N, C, \*S), 0 where it does not count.
        teacher: The same of the teacher; receives no gradient.
        mask: Bool (N, \*S), True where a position counts.
        batch: Whether over the batch, in place of each image.

    >>> x = torch.tensor([[[1., 3.], [5., 5.]]])
    >>> standardize(x, x, None, batch=False)[0].tolist()
    [[[-1.0, 1.0], [0.0, 0.0]]]
    """
    maps = (student, teacher.detach())
    places = tuple(range(2, student.dim()))
    over = (0, *places) if batch else places
    sizes = [student.shape[d] for d in over]
    count = student.new_full([1] * student.dim(), prod(sizes))
    if mask is not None:
        count = mask.unsqueeze(1).sum(over, keepdim=True).to(student.dtype)
    # Two passes: the mean square minus the squared mean loses all digits of a far-off channel.
    mean_s, mean_t, count = _sums(batch, *(x.sum(over, keepdim=True) for x in maps), count)
    count = count.detach().clamp(min=1)
    means = (mean_s, mean_t.detach())  # sums over ranks of both sides share one graph
    centred = [fill_masked(x - m / count, mask) for x, m in zip(maps, means, strict=True)]
    squares = _sums(
        batch,
        *(x.square().sum(over, keepdim=True) for x in centred),
        *(x.detach().square().sum(over, keepdim=True) for x in maps),
    )
    scale_s, scale_t = (_scale(squares[k] / count, squares[k + 2] / count) for k in range(2))
    return centred[0] * scale_s, centred[1].mul_(scale_t.detach())


def _sums(batch: bool, *sums: Tensor) -> list[Tensor]:
    """Return sums over one rank as sums over all, by one reduction."""
    if not batch:
        return list(sums)
    parts = sum_over_ranks(torch.cat([x.reshape(-1) for x in sums]))
    pieces = parts.split([x.numel() for x in sums])
    return [piece.view_as(x) for piece, x in zip(pieces, sums, strict=True)]


def _scale(variance: Tensor, square: Tensor) -> Tensor:
    """Return one over the deviation, 0 where it is but the rounding of the values."""
    # Of values beyond float32's squares NaN comes out, which stops a run; Inf would be a scale of 0
    variance, square = infinite_to_nan(variance), infinite_to_nan(square)
    dead = variance <= (16 * torch.finfo(variance.dtype).eps) ** 2 * square
    return variance.masked_fill(dead, 1).rsqrt().masked_fill(dead, 0)


def check_features(student: Tensor, teacher: Tensor, name: str) -> None:
    """Refuse features that are not (N, C, *S) of one shape.

    Raises:
        ValueError: Names the loss and both shapes.

    >>> check_features(torch.zeros(2, 3), torch.ones(2, 3), 'feature L1')
    """
    if student.dim() < 2 or student.shape != teacher.shape:
        raise ValueError(
            f'{name} needs maps (N, C, *S) of one shape, got student {shape_of(student)}, '
            f"teacher {shape_of(teacher)}; mend: connectors=dict(student='auto')"
        )


def check_tokens(student: Tensor, teacher: Tensor) -> None:
    """Refuse what are no tokens (N, L, D).

    Raises:
        ValueError: Names both shapes.

    >>> check_tokens(torch.zeros(2, 5, 3), torch.ones(2, 5, 3))
    """
    if student.dim() != 3 or teacher.dim() != 3:
        raise ValueError(
            f'tokens=True needs tokens (N, L, D), got student {shape_of(student)}, teacher '
            f'{shape_of(teacher)}; mend: tokens=False of maps, or a tap of tokens'
        )
