"""Batch similarity: how images of a batch are related, for student as for teacher."""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.features.point_wise import mean_over
from mmkd.losses.functional import (
    above_zero,
    fill_masked,
    gather_over_ranks,
    masked_mean,
    measure_of,
    no_autocast,
    number_of_ranks,
    unit_vectors,
    widen,
)
from mmkd.losses.relations.inner_products import check_images, inner_products
from mmkd.losses.relations.nodes import resized
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice

_GAMMA = 0.4  # of CC
_EPS = 1e-7  # of PKT
# Squared distances below this share of the squared norms are the rounding of inner products.
_SAME = 1e-12
_TRIPLES = 2**24  # of RKD's angles at once


def batch_similarity(
    student: Tensor,
    teacher: Tensor,
    kind: str = 'sp',
    pooled: bool = False,
    gather: bool = True,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Difference of the relations between the images of a batch, of student and teacher.

    Papers: Tung and Mori, SP, ICCV 2019, arXiv 1907.09682; Park et al., RKD, CVPR 2019, arXiv
    1904.05068; Passalis and Tefas, PKT, ECCV 2018, arXiv 1803.10837; Peng et al., CC, ICCV 2019,
    arXiv 1904.01802. All are functions of the inner products :math:`G_{nm} = x_n^\top x_m` of what
    an image has, so that memory is linear in its numbers.

    * 'sp': :math:`\frac1N \sum_n \Vert \hat G^s_n - \hat G^t_n \Vert^2`, rows of unit norm. The
      authors' code divides by N once more, so that its value falls with the batch.
    * 'rkd-distance': mean over all pairs, the own one included, of Huber's (:math:`d^2/2` below 1)
      of the distances over the mean of those that are not 0, as in the authors' code.
    * 'rkd-angle': mean over all triples of Huber's of the cosines of the angles at the first.
    * 'pkt': mean over rows of KL of the teacher's (1 + cos) / 2, over the sum of its row, from the
      student's, with 1e-7 / N added before the rows are made to sum to 1 again. The authors' code
      divides by N once more, and adds 1e-7 within the logarithms alone.
    * 'cc': mean over pairs of the squared difference of :math:`e^{-2\gamma} \sum_{p=0}^2
      (2\gamma \cos)^p / p!`, the Gaussian kernel of unit vectors to the second order, γ = 0.4. The
      layers between, which the paper trains on both sides, are left out: they can agree on a
      constant. What RepDistiller calls CC is another formula.

    Of one image there is no relation, and the value is 0; of two images RKD's is too, since their
    one distance over its mean is 1. Under distributed training the batch is
    that of all devices (``gather``), so that many devices equal one process on the joined batch.

    Each side has channels and places of its own. ``pooled`` takes the means over the places of an
    image, else an image is all its numbers. What does not count is left out, and images of which
    nothing counts are. A weight w is the measure of the inner products, or of the means: a position
    of weight 2 counts as two of them. A teacher of other places is weighed by the mean of what each
    of them covers of the student's. Only 'cc' and 'pkt', by their cosines, and 'sp', by its rows,
    look from 0; distances and angles do not.

    Args:
        student: Map (N, Cs, \*S), or vectors (N, Cs).
        teacher: Map (N, Ct, \*S') of any channels and places, or vectors; receives no gradient.
        kind: 'sp', 'rkd-distance', 'rkd-angle', 'pkt' or 'cc'.
        pooled: Whether the means over the positions of an image are related.
        gather: Whether the batch is that of all devices.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much it counts; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, an unknown kind.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> student, teacher = torch.eye(2), torch.ones(2, 3)
        >>> batch_similarity(student, teacher)  # rows (1, 0), (0, 1) against (1, 1) / √2: 2 − √2
        tensor(0.5858)
        >>> line = torch.tensor([[0.], [1.], [3.]])  # distances 1, 2, 3 over 2; and all the same
        >>> corners = torch.tensor([[1., 0., 0.], [0., 1., 0.], [0., 0., 1.]])
        >>> batch_similarity(line, corners, 'rkd-distance')  # 2/9 of ½² / 2, twice
        tensor(0.0556)
    """
    check_choice('kind', kind, KINDS)
    check_images(student, teacher, 'batch similarity', least=2)
    check_mask(mask, student)
    check_weight(weight, student)
    with no_autocast(student):
        student, teacher = widen(student, teacher.detach())
        own = measure_of(student, mask, weight)
        alive = None if own is None else above_zero(own).flatten(1).any(1)
        student, teacher = (_images(x, pooled, own) for x in (student, teacher))
        if gather:
            student, teacher = (gather_over_ranks(x) for x in (student, teacher))
            if alive is not None:
                alive = gather_over_ranks(alive.float()) > 0
        ours, theirs = (inner_products(x, x) for x in (student, teacher))
        return KINDS[kind](ours, theirs, alive).to(student.dtype)


def _images(x: Tensor, pooled: bool, own: Tensor | None) -> Tensor:
    r"""Return what each image of a map (N, C, \*S) is, (N, D), by how much positions count."""
    if own is not None:
        own = _measure_at(x, own)
        x = fill_masked(x, above_zero(own).squeeze(1))
    if pooled and x.dim() > 2:
        return mean_over(x, own)
    return (x if own is None or pooled else x * own.sqrt()).flatten(1)


def _measure_at(x: Tensor, own: Tensor) -> Tensor:
    """Return how much positions count at the size of a map, or an image where one has no places."""
    if x.dim() > 2 and own.dim() > 2:
        return resized(own, x.shape[2:])
    if x.dim() == own.dim():
        return own
    alive = above_zero(own).flatten(1).any(1).to(x.dtype)
    return alive.view(-1, *[1] * (x.dim() - 1)).expand_as(x[:, :1])


def _pairs(alive: Tensor | None) -> Tensor | None:
    return None if alive is None else alive[:, None] & alive


def _kept(x: Tensor, which: Tensor | None) -> Tensor:
    return x if which is None else x.where(which, x.new_zeros(()))


def _rows(ours: Tensor, theirs: Tensor, alive: Tensor | None) -> Tensor:
    """SP: rows of unit norm; of an image that does not count there are zeros, in every row."""
    difference = unit_vectors(ours) - unit_vectors(theirs)
    return masked_mean(difference.square().sum(1), alive)


def _cosines(gram: Tensor) -> Tensor:
    """Return inner products of unit vectors; 0 of a zero vector."""
    square = gram.diagonal()
    some = square != 0
    inverse = square.where(some, square.new_ones(())).rsqrt().where(some, square.new_zeros(()))
    return gram * inverse * inverse[:, None]


def _probabilities(ours: Tensor, theirs: Tensor, alive: Tensor | None) -> Tensor:
    """PKT: KL of rows that sum to 1."""
    pairs, logs = _pairs(alive), []
    for gram in (ours, theirs):
        p = (1 + _cosines(gram)).clamp(min=0) / 2  # rounding may leave less than −1
        p = _kept(p, pairs)
        p = p / p.sum(1, keepdim=True).clamp(min=_EPS)
        count = len(p) if alive is None else alive.sum()
        p = count * p + _EPS
        logs.append(p.log() - _kept(p, pairs).sum(1, keepdim=True).clamp(min=_EPS).log())
    terms = _kept(logs[1].exp() * (logs[1] - logs[0]), pairs)
    return masked_mean(terms.sum(1), alive)


def _kernels(ours: Tensor, theirs: Tensor, alive: Tensor | None) -> Tensor:
    """CC: the exponential to the second order."""

    def kernel(gram: Tensor) -> Tensor:
        x = 2 * _GAMMA * _cosines(gram)
        return math.exp(-2 * _GAMMA) * (1 + x + x.square() / 2)

    return masked_mean((kernel(ours) - kernel(theirs)).square(), _pairs(alive))


def _squared_distances(gram: Tensor) -> Tensor:
    """Return squared distances of images; exactly 0, without gradient, where they are the same."""
    square = gram.diagonal()
    both = square + square[:, None]
    distance = both - 2 * gram
    return distance.masked_fill(distance <= _SAME * both.detach(), 0)


def _roots(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square roots, and where they are not 0: the gradient of √0 is none."""
    some = x != 0
    return x.where(some, x.new_ones(())).sqrt().where(some, x.new_zeros(())), some


def _distances(ours: Tensor, theirs: Tensor, alive: Tensor | None) -> Tensor:
    """RKD: distances over their mean."""
    pairs = _pairs(alive)
    ours, theirs = (_scaled_distances(gram, pairs) for gram in (ours, theirs))
    return masked_mean(F.smooth_l1_loss(ours, theirs, reduction='none'), pairs)


def _scaled_distances(gram: Tensor, pairs: Tensor | None) -> Tensor:
    """Return distances over the mean of those that are not 0."""
    distance, some = _roots(_squared_distances(gram))
    mean = masked_mean(distance, some if pairs is None else some & pairs)
    return distance / mean.where(mean != 0, mean.new_ones(()))


def _angles(ours: Tensor, theirs: Tensor, alive: Tensor | None) -> Tensor:
    """RKD: cosines of angles, vertex by vertex, so that N³ numbers are not held."""
    pairs, images = _pairs(alive), len(ours)
    step = max(1, _TRIPLES // max(1, images**2))
    ours, theirs = _squared_distances(ours), _squared_distances(theirs)
    total = ours.new_zeros(())
    for start in range(0, images, step):
        part = slice(start, start + step)
        some = None if alive is None or pairs is None else alive[part, None, None] & pairs
        if step < images and torch.is_grad_enabled():
            total = total + checkpoint(
                _at_vertices,
                ours,
                theirs,
                part,
                some,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        else:
            total = total + _at_vertices(ours, theirs, part, some)
    count = images if alive is None else alive.sum().clamp(min=1)
    return total / count**3


def _at_vertices(ours: Tensor, theirs: Tensor, part: slice, some: Tensor | None) -> Tensor:
    """Return the sum of what the angles at some images differ by."""
    ours, theirs = _cosines_at(ours, part), _cosines_at(theirs, part)
    return _kept(F.smooth_l1_loss(ours, theirs, reduction='none'), some).sum()


def _cosines_at(square: Tensor, part: slice) -> Tensor:
    """Return the cosines (I, N, N) of the angles at I images, by the law of cosines."""
    here = square[part]
    length, some = _roots(here)
    inverse = 1 / length.where(some, length.new_ones(()))
    inverse = inverse.where(some, inverse.new_zeros(()))
    product = (here[:, :, None] + here[:, None] - square) / 2
    return product * inverse[:, :, None] * inverse[:, None]


Compare = Callable[[Tensor, Tensor, Tensor | None], Tensor]
KINDS: dict[str, Compare] = {
    'sp': _rows,
    'rkd-distance': _distances,
    'rkd-angle': _angles,
    'pkt': _probabilities,
    'cc': _kernels,
}


@MODELS.register_module()
class BatchSimilarityLoss(Loss):
    """Relations between the images of a batch; see :func:`batch_similarity`.

    Args:
        kind: 'sp', 'rkd-distance', 'rkd-angle', 'pkt' or 'cc'.
        pooled: Whether the means over the positions of an image are related.
        gather: Whether the batch is that of all devices.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: The first batch that it is trained on has one image.

    Examples:
        >>> student, teacher = torch.eye(2), torch.ones(2, 3)
        >>> BatchSimilarityLoss(loss_weight=2.)(student, teacher)
        tensor(1.1716)
    """

    roles = dict(student=Map(alike=()), teacher=Map(alike=()))

    def __init__(
        self,
        kind: str = 'sp',
        pooled: bool = False,
        gather: bool = True,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_choice('kind', kind, KINDS)
        self.kind, self.pooled, self.gather = kind, pooled, gather
        self.least_images = 3 if kind.startswith('rkd') else 2
        self._next: str | None = 'first'  # what the batch to come is; None: no matter

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load; a run may go on at a small last batch, which is followed by no other."""
        super()._load_from_state_dict(*args, **kwargs)
        self._next = 'loaded'

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S), mask and weight (N, \*S) of the student.

        Raises:
            ValueError: It is trained, and the first batch has one image.
        """
        if self.training and torch.is_grad_enabled() and self._next is not None:
            self._refuse_too_few(student)
        return self.loss_weight * batch_similarity(
            student, teacher, self.kind, self.pooled, self.gather, mask, weight
        )

    def _refuse_too_few(self, student: Tensor) -> None:
        """Refuse one image at the first step: a small last batch, later on, is just 0.

        Where weights were loaded, which may be of a run that goes on, at the second step.
        """
        images = len(student) * (number_of_ranks() if self.gather else 1)
        if images == 1 and self._next == 'loaded':
            self._next = 'first'
            return
        if images == 1:
            alone = ' on each device, by gather=False' if number_of_ranks() > 1 else ''
            raise ValueError(
                f'BatchSimilarityLoss relates the images of a batch, and student '
                f'{shape_of(student)} is one image{alone}: its value and its gradient would be 0. '
                'Mend: a batch_size of 2 or more (3 for RKD), several devices with gather=True, '
                'or a loss that relates places or channels (RowWiseKLLoss, ChannelGramLoss)'
            )
        if images < self.least_images:
            print_log(
                f'mmkd: BatchSimilarityLoss({self.kind!r}) is 0 of two images, whose one distance '
                'over its mean is 1. Mend: a batch_size of 3 or more',
                logger='current',
                level=logging.WARNING,
            )
        self._next = None
