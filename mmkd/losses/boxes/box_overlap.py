"""Overlap of boxes: what a dense head says of boxes is what the teacher's says."""

from collections.abc import Sequence

from torch import Tensor

from mmkd.losses.base import Loss, Many
from mmkd.losses.boxes.decode import CODES, SPREAD, decode
from mmkd.losses.boxes.overlap import PENALTIES, area, overlap_penalty
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.functional import (
    counted,
    fill_masked,
    no_autocast,
    weighted_mean,
    widen,
)
from mmkd.losses.levels import Levels, check_places, join_levels, weight_by_scores
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_fraction, check_positive

LEAST = 1e-6  # area of a teacher's box, in strides or anchors


def box_overlap(
    student: Tensor,
    teacher: Tensor,
    code: str = 'exp',
    penalty: str = 'giou',
    spread: Sequence[float] = SPREAD,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Mean of what the boxes of two heads lack of being one, place by place.

    Paper: the term of boxes of Wang et al., CrossKD, CVPR 2024, arXiv 2306.11369, of heads without
    distributions of edges.

    .. math:: \frac{\sum_i w_i \, \mathrm{penalty}(b_i^s, b_i^t)}{\sum_i w_i}

    See :func:`mmkd.losses.boxes.overlap.overlap_penalty` for the penalty, and
    :func:`mmkd.losses.boxes.decode.decode` for what numbers of a map are a box. A place is left out
    where the teacher's box has no area (1e-6 of a stride or an anchor), with which no box overlaps.

    Normaliser: a mean over positions by their weight. The authors' code divides by the number of
    positions that the assigner takes for objects (of FCOS by the sum of their centerness).

    Args:
        student: Map (N, 4, \*S), or of bins (N, 4·(n + 1), \*S); any number of spatial axes.
        teacher: Map of the same shape; receives no gradient.
        code: 'exp', 'relu', 'bins' or 'deltas'.
        penalty: 'giou' or 'log-iou'.
        spread: What deltas are multiplied by, above 0.
        mask: Bool (N, \*S), True where a position counts.
        weight: How much a position counts (N, \*S), 0 or above; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, an option that is not there.
        TypeError: a mask that is not bool, a weight that is not floating.

    Examples:
        >>> import torch
        >>> teacher = torch.zeros(1, 4)  # distances of 1: a box of 2×2 within one of 4×2
        >>> box_overlap(torch.tensor([[1., 1., 3., 1.]]).log(), teacher, penalty='log-iou')
        tensor(0.6931)
    """
    _check_options(code, penalty, spread)
    _check_maps(student, teacher, code)
    check_mask(mask, student)
    check_weight(weight, student)
    with no_autocast(student):
        counts = counted(mask, weight)
        student, teacher = widen(student, teacher.detach())
        theirs = decode(fill_masked(teacher, counts), code, spread)
        # not where it is above: NaN must come out
        there = ~(area(theirs[:2], theirs[2:]) <= LEAST)
        if weight is not None:
            there = there | weight.isnan()
        there = there if counts is None else there & counts
        # before it is decoded: a place that does not count may overflow, and 0 · Inf is NaN
        ours = decode(fill_masked(student, there), code, spread)
        return weighted_mean(overlap_penalty(ours, theirs, penalty), there, weight)


def _check_options(code: str, penalty: str, spread: Sequence[float]) -> None:
    check_choice('code', code, CODES)
    check_choice('penalty', penalty, PENALTIES)
    if len(spread) != 4:
        raise ValueError(
            f'spread is four numbers, of a shift and of the sides, got {spread!r}. Mend: '
            'target_stds of the bbox_coder'
        )
    for one in spread:
        check_positive('spread', one)


def _check_maps(student: Tensor, teacher: Tensor, code: str) -> None:
    shapes = f'student {shape_of(student)}, teacher {shape_of(teacher)}'
    if student.dim() < 2 or student.shape != teacher.shape:
        raise ValueError(
            f'overlap of boxes needs maps (N, 4, *S) of one shape, got {shapes}; mend: heads of '
            'one kind, at levels of one size'
        )
    numbers = student.shape[1]
    if numbers % 4 or (numbers > 4) != (code == 'bins'):
        raise ValueError(
            f'overlap of boxes with code={code!r} needs 4 numbers a box, of bins as many times two '
            f"or more, got {shapes}; mend: code='bins' of a head that predicts distributions "
            "(GFLHead), 'deltas' of one with anchors, else 'exp'"
        )


@MODELS.register_module()
class BoxOverlapLoss(Loss):
    r"""Overlap of the boxes of dense heads, where there are some; see :func:`box_overlap`.

    All levels of a detector are one set of positions, and each anchor of a place is one. A position
    counts as much as the likeliest class of ``scores``, σ(max_c), and not at all below ``least``.

    Args:
        code: What numbers of a map are a box: 'exp' and 'relu' (FCOS), 'bins' (GFL), 'deltas'
            (RetinaNet, ATSS).
        penalty: 'giou' or 'log-iou'.
        spread: ``target_stds`` of a coder of deltas.
        least: The score below which a position does not count.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: An option out of range.

    Examples:
        >>> import torch
        >>> student = torch.tensor([[[1., 1.], [1., 3.], [3., 3.], [1., 1.]]]).log()
        >>> scores = torch.tensor([[[9., 1.]]]).log()  # 0.9 and 0.5, of boxes that share 1/2, 1/4
        >>> BoxOverlapLoss('exp', 'log-iou')([student], [torch.zeros(1, 4, 2)], [scores])
        tensor(0.9407)
    """

    roles = dict(student=Many(), teacher=Many(), scores=Many())

    def __init__(
        self,
        code: str = 'exp',
        penalty: str = 'giou',
        spread: Sequence[float] = SPREAD,
        least: float = 0.0,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        _check_options(code, penalty, spread)
        check_fraction('least', least)
        self.code, self.penalty, self.least = code, penalty, least
        self.spread = tuple(spread)

    def forward(
        self,
        student: Levels,
        teacher: Levels,
        scores: Levels | None = None,
        mask: Levels | None = None,
        weight: Levels | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, A·4, \*S), of one level or a list of them.

        Args:
            student: Boxes of the A anchors of a place, one after the other.
            teacher: The same of the teacher.
            scores: Class logits (N, A·C, \*S) of either, each class a sigmoid; no gradient.
            mask: Bool (N, \*S), True where a position counts.
            weight: How much it counts besides (N, \*S).
        """
        check_places('overlap of boxes', student=student, teacher=teacher, scores=scores)
        ours, theirs = (join_levels(x, 2) for x in (student, teacher))
        anchors = 1 if self.code == 'bins' else max(ours.shape[1] // 4, 1)
        valid = None if mask is None else _repeat(join_levels(mask, 1), anchors)
        joined = None if weight is None else _repeat(join_levels(weight, 1), anchors)
        if scores is not None:
            said = _split(join_levels(scores, 2), anchors)
            joined = weight_by_scores(said, self.least, joined)
        value = box_overlap(
            _split(ours, anchors),
            _split(theirs, anchors),
            self.code,
            self.penalty,
            self.spread,
            valid,
            joined,
        )
        return self.loss_weight * value


def _split(x: Tensor, anchors: int) -> Tensor:
    """Return the numbers of each anchor (N·A, C, P) from (N, A·C, P)."""
    if x.shape[1] % anchors:
        raise ValueError(
            f'overlap of boxes needs numbers of {anchors} boxes a place, got {shape_of(x)} (N, '
            'channels, places); mend: boxes and scores of one head'
        )
    return x.reshape(len(x) * anchors, x.shape[1] // anchors, x.shape[2])


def _repeat(x: Tensor, anchors: int) -> Tensor:
    return x if anchors == 1 else x.repeat_interleave(anchors, 0)
