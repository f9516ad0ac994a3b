"""Cross-level matching: each level of the student learns from the teacher's that it attends to."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.base import Loss, Many
from mmkd.losses.checks import shape_of
from mmkd.losses.features.point_wise import check_features, cost
from mmkd.losses.functional import (
    call_in_dtype,
    infinite_to_nan,
    no_autocast,
    unit_vectors,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count, check_positive, not_built


def cross_level(student: Sequence[Tensor], teacher: Sequence[Tensor], attention: Tensor) -> Tensor:
    r"""Squared differences of all pairs of levels, by how much one attends to the other.

    Paper: Chen et al., Cross-Layer Distillation with Semantic Calibration (SemCKD), AAAI 2021,
    arXiv 2012.03236. With s_ij the student's map i brought to the teacher's map j, and D_n the mean
    over channels and places of image n:

    .. math:: L = \frac{1}{N S} \sum_n \sum_{i, j} \alpha_{nij} \, D_n(s_{ij}, P\, t_j)

    P pools t to the size of s, adaptive mean. Normaliser: images N times the student's levels S,
    since the attention of each sums to 1 over the teacher's.

    Args:
        student: S·T maps (N, C_j, H, W), those of the first level first.
        teacher: T maps (N, C_j, H, W); receive no gradient.
        attention: α (N, S, T); receives gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes or numbers of maps that do not fit.

    Examples:
        >>> teacher = [torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 1, 1)]
        >>> student = [torch.ones(1, 1, 2, 2), torch.full((1, 2, 1, 1), 3.)]
        >>> cross_level(student, teacher, torch.tensor([[[.25, .75]]]))  # ¼ · 1 + ¾ · 9
        tensor(7.)
    """
    if attention.dim() == 3 and attention[0].numel() != len(student):
        raise ValueError(
            f'attention {shape_of(attention)} is of {attention[0].numel()} pairs, but there are '
            f'{len(student)}; mend: as many student_maps as student lists, of the same levels'
        )
    if attention.dim() != 3 or not len(student):
        raise ValueError(
            f'attention (N, S, T) must be of {len(student)} pairs, got {shape_of(attention)}; mend:'
            " connectors=dict(student=dict(type='LevelPairs'))"
        )
    levels = attention.shape[2]
    if levels != len(teacher):
        raise ValueError(
            f'attention {shape_of(attention)} is to {levels} maps, but teacher has {len(teacher)}; '
            'mend: the same taps'
        )
    with no_autocast(attention):
        wide = widen(attention, *student, *(x.detach() for x in teacher))
        attention, maps = wide[0], wide[1:]
        apart = []
        for k, x in enumerate(maps[: len(student)]):
            height, width = x.shape[2:]
            t = F.adaptive_avg_pool2d(maps[len(student) + k % levels], (height, width))
            check_features(x, t, f'cross-level matching, pair {divmod(k, levels)}')
            apart.append(cost(x, t, 'l2').mean((1, 2)))
        distances = torch.stack(apart, 1).view_as(attention)
        return (attention * distances).sum(2).mean()


class LevelEmbedding(nn.Module):
    """Two linear layers with a ReLU between, of rows of similarities, to a vector of norm 1.

    Args:
        images: How long a row is.
        channels: Of the vector.
    """

    def __init__(self, images: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(images, 2 * channels)
        self.last = nn.Linear(2 * channels, channels)

    def forward(self, rows: Tensor) -> Tensor:
        """Return vectors (N, channels) of rows (N, images)."""
        return unit_vectors(self.last(self.first(rows).relu()))


@MODELS.register_module()
class CrossLevelLoss(Loss):
    r"""Cross-level matching with its attention (SemCKD); see :func:`cross_level`.

    A level's query or key for an image is an embedding, unit vectors, of the products of its
    features, all of a map, with those of all images of the batch; attention is the softmax over the
    teacher's levels of query times key over ``softness``. So the embeddings belong to a size of
    batches: ``images`` is the largest; of a smaller one, which the authors' code skips, the rest is
    0. Both networks' embeddings are trained with the student; batches of several devices are not
    joined.

    ``student`` and ``student_maps`` read the same list of taps; the first passes the connector
    :class:`mmkd.connectors.level_pairs.LevelPairs`, the second none.

    Args:
        images: Images of a batch, on each device.
        softness: Temperature of the attention.
        factor: Queries and keys have so many times fewer channels than there are images.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: an option out of range, more images than ``images``.
        RuntimeError: called before it is built.
    """

    roles = dict(student=Many(), teacher=Many(), student_maps=Many())
    fixed = ('images', 'factor')
    queries: nn.ModuleList | None
    keys: nn.ModuleList | None

    def __init__(
        self,
        images: int = 64,
        softness: float = 1.0,
        factor: int = 4,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_count('images', images, 1)
        check_count('factor', factor, 1)
        check_positive('softness', softness)
        self.images, self.softness, self.factor = images, softness, factor
        self.queries = self.keys = None

    def build(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], student_maps: Sequence[Tensor]
    ) -> str:
        """Make the embeddings; return what was made, in words, '' for nothing."""
        if self.queries is not None:
            return ''
        self.queries, self.keys = self._embeddings(student_maps), self._embeddings(teacher)
        self.to(teacher[0].device)
        return f'attention of {len(student_maps)} levels to {len(teacher)}, of {self.images} images'

    def attention(self, student_maps: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return how much each of the student's levels attends to each of the teacher's (N, S, T).

        Args:
            student_maps: Maps (N, C, H, W) of the student.
            teacher: Those of the teacher.
        """
        if self.queries is None or self.keys is None:
            raise not_built('the attention is', call='build(student=…, teacher=…, student_maps=…)')
        if (len(student_maps), len(teacher)) != (len(self.queries), len(self.keys)):
            raise ValueError(
                f'the attention is of {len(self.queries)} levels to {len(self.keys)}, got '
                f'{len(student_maps)} and {len(teacher)}; mend: the taps that it was made for'
            )
        with no_autocast(teacher[0]):
            maps = widen(*student_maps, *(x.detach() for x in teacher))
            rows = [self._similarities(x) for x in maps]
            pairs = zip((*self.queries, *self.keys), rows, strict=True)
            made = torch.stack([call_in_dtype(net, row) for net, row in pairs], 1)
            queries, keys = made.split([len(self.queries), len(self.keys)], 1)
            return (queries @ keys.mT / self.softness).softmax(2)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], student_maps: Sequence[Tensor]
    ) -> Tensor:
        """Return the weighted loss.

        Args:
            student: S·T maps of the student, each brought to a map of the teacher.
            teacher: The teacher's T maps.
            student_maps: The student's S maps as they are.
        """
        attention = self.attention(student_maps, teacher)
        return self.loss_weight * cross_level(student, teacher, attention)

    def _similarities(self, x: Tensor) -> Tensor:
        """Return products of all images' features (N, images), 0 of those that are not there."""
        flat = infinite_to_nan(x.flatten(1))  # a ReLU would make 0 of −Inf
        if len(flat) > self.images:
            raise ValueError(
                f'the attention is of batches of {self.images} images, got {len(flat)}; mend: '
                f'images={len(flat)}'
            )
        return F.pad(flat @ flat.T, (0, self.images - len(flat)))

    def _embeddings(self, maps: Sequence[Tensor]) -> nn.ModuleList:
        channels = max(self.images // self.factor, 1)
        return nn.ModuleList(LevelEmbedding(self.images, channels) for _ in maps)
