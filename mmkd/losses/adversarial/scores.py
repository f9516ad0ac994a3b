"""What a critic says of a map: scores, category units, and which of the scores count."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.checks import shape_of
from mmkd.losses.functional import call_in_dtype


class Scores(NamedTuple):
    """Scores (N, 1, …), category units (N, C, …) where there are labels, which scores count."""

    score: Tensor
    classes: Any = None
    valid: Tensor | None = None


class Side(NamedTuple):
    """What goes with a map, where it is read: image, labels, and which positions count."""

    image: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None


def is_joint(critic: nn.Module) -> bool:
    """Return whether a critic sees student and teacher in one batch, whoever asks.

    >>> is_joint(nn.Flatten())
    False
    """
    return getattr(critic, 'joint', False)


def score_maps(
    critic: nn.Module, maps: Sequence[Tensor], beside: Side, sigmoid: bool = False
) -> list[Scores]:
    """Return what a critic says of each map, all in one batch where it is ``joint``.

    Args:
        critic: Called as ``critic(map)`` or ``critic(map, image)``.
        maps: Maps (N, C, H, W) or vectors (N, C).
        beside: What goes with each of them.
        sigmoid: Squash the scores to (0, 1).

    Raises:
        ValueError: Scores of another shape; categories without labels, labels without categories;
            a mask of places for a critic that scores whole maps.

    >>> score_maps(nn.Flatten(), [torch.ones(2, 1)], Side())[0].score.tolist()
    [[1.0], [1.0]]
    """
    if not is_joint(critic):
        return [score_map(critic, x, beside, sigmoid) for x in maps]
    number = len(maps)
    every = Side(*(None if x is None else torch.cat([x] * number) for x in beside))
    seen = score_map(critic, torch.cat(tuple(maps)), every, sigmoid)
    parts = ([None] * number if x is None else x.chunk(number) for x in seen)
    return [Scores(*part) for part in zip(*parts, strict=True)]


def score_map(critic: nn.Module, x: Tensor, beside: Side, sigmoid: bool = False) -> Scores:
    """Return what a critic says of one map; see :func:`score_maps`."""
    scores = call_in_dtype(critic, x, *([] if beside.image is None else [beside.image]))
    categories = _check_scores(type(critic).__name__, scores, x, beside.labels)
    score, classes = scores[:, :1], scores[:, 1:] if categories else None
    if sigmoid:
        score = score.sigmoid()
    if beside.mask is None:
        return Scores(score, classes)
    return Scores(score, classes, _valid(type(critic).__name__, score, x, beside.mask))


def _check_scores(critic: str, scores: Tensor, x: Tensor, labels: Tensor | None) -> int:
    """Refuse scores that are none; return the number of categories."""
    categories = scores.shape[1] - 1 if scores.dim() in (2, 4) else -1
    if len(scores) != len(x) or categories < 0 or (categories and labels is None):
        mend = f"; mend: reads=dict(labels='batch.labels') for its {categories} categories"
        raise ValueError(
            f'critic {critic} must return scores (N, 1, h, w) or (N, 1), got {shape_of(scores)} '
            f'for the map {shape_of(x)}{mend if categories > 0 else ""}'
        )
    if labels is not None and not categories:
        raise ValueError(
            f'labels were given, but critic {critic} has no category outputs; mend: drop '
            'reads=dict(labels=…)'
        )
    return categories


def _valid(critic: str, score: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """Return which scores count: those of which the nearest position does."""
    if x.dim() == 2:
        return mask.view(-1, *[1] * (score.dim() - 1))
    if score[0].numel() == 1 and x[0, 0].numel() > 1:
        raise ValueError(
            f'mask was given, but critic {critic} has no spatial output: one score '
            f'{shape_of(score)} for the whole map {shape_of(x)}; mend: drop the mask, or a critic '
            'that scores places'
        )
    mask = mask.unsqueeze(1)
    if score.shape[2:] != mask.shape[2:]:
        mask = F.interpolate(mask.to(x.dtype), score.shape[2:]) > 0
    return mask
