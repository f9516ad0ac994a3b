"""Levels of a detector, whose positions are one set."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd.losses.functional import infinite_to_nan, widen

Levels = Tensor | Sequence[Tensor]  # the map of one level, or those of all levels of a detector


def join_levels(levels: Levels, lead: int) -> Tensor:
    """Return maps with one axis of all positions of all levels, behind so many others.

    >>> join_levels([torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2)], 2).shape
    torch.Size([2, 3, 20])
    """
    if isinstance(levels, Tensor):
        levels = [levels]
    return torch.cat([x.reshape(*x.shape[:lead], -1) for x in levels], lead)


def weight_by_scores(scores: Tensor, least: float, weight: Tensor | None = None) -> Tensor:
    r"""Return how much positions count: the score of the likeliest class, 0 below ``least``.

    NaN where a score is not finite, unless the position does not count by ``weight``.

    Args:
        scores: Class logits (N, C, \*S), each class a sigmoid; receive no gradient.
        least: The score below which a position does not count.
        weight: How much it counts besides (N, \*S).

    >>> weight_by_scores(torch.tensor([[9., 1.], [1., float('nan')]]).log(), 0.5)
    tensor([0.9000,    nan])
    """
    (likeliest,) = widen(infinite_to_nan(scores.detach()).amax(1))
    score = likeliest.sigmoid()
    score = score.where(~(score < least), score.new_zeros(()))
    return score if weight is None else score.where(weight > 0, score.new_zeros(())) * weight


def check_places(name: str, **maps: Levels | None) -> None:
    """Refuse lists whose levels do not fit, of which joined ones might.

    Args:
        name: Of the loss.
        **maps: Maps of each argument; None: it is not read.

    Raises:
        ValueError: Other images or places than those of ``student``.

    >>> check_places('it', student=[torch.zeros(2, 3, 4, 4)], scores=[torch.zeros(2, 7, 4, 4)])
    """
    places = {key: _places(levels) for key, levels in maps.items() if levels is not None}
    if any(one != places['student'] for one in places.values()):
        raise ValueError(
            f'{name} needs maps of the same levels, got {places} (N and places, level by '
            'level); mend: as many levels of one size from both heads'
        )


def _places(levels: Levels) -> list[tuple[int, ...]]:
    """Return images and places of every level."""
    return [(len(x), *x.shape[2:]) for x in ([levels] if isinstance(levels, Tensor) else levels)]
