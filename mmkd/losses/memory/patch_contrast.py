"""Contrast inside patches: each group of channels of a place against all other groups (Af-DCD)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.features.feature_matching import feature_matching
from mmkd.losses.features.generator import check_generator, drawn_places, generator_of, keep
from mmkd.losses.features.point_wise import check_features
from mmkd.losses.functional import (
    call_in_dtype,
    counted,
    fill_masked,
    infinite_to_nan,
    measure,
    no_autocast,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import (
    check_count,
    check_fraction,
    check_non_negative,
    check_positive,
    not_built,
)

# Entries of rows × rows × channels that torch's gradient of distances holds at once on a GPU.
_ENTRIES = 2**24


def patch_contrast(
    student: Tensor,
    teacher: Tensor,
    groups: int = 16,
    patch: int = 4,
    pool: int = 4,
    tau: float = 0.07,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Each group of channels of a place is told apart from the teacher's other groups around it.

    Paper: Fan et al., Augmentation-free Dense Contrastive Knowledge Distillation for Efficient
    Semantic Segmentation (Af-DCD), NeurIPS 2023, arXiv 2312.04168. Maps are max-pooled, places
    divided into patches and channels into M groups of consecutive ones. With
    :math:`a_{im,jn} = -\lVert s_{im} - t_{jn} \rVert_1 / \tau` for places i, j of one patch p(i),

    .. math:: L = \frac{1}{|V| M} \sum_{i \in V} \sum_m \left[ \ln\Big( e^{a_{im,im}} +
              \sum_{j \in p(i)} \sum_{n \ne m} e^{a_{im,jn}} \Big) - a_{im,im} \right]

    Normaliser: the valid pooled places V of the whole batch times the groups. The authors' code
    sums over groups: its value is M times this one. The same group of other places is neither
    positive nor negative, as there. It is no divergence, and not 0 at student = teacher.

    A pooled place is valid where any of its places is, and weighs their mean weight. Patches at the
    border have what is left; the authors' code crops maps to a multiple, or fails.

    Args:
        student: Map (N, C, H, W).
        teacher: The same; receives no gradient.
        groups: M, of C / M channels each.
        patch: Side of a patch, in pooled places.
        pool: Side of a pooled place; 1: no pooling.
        tau: Temperature.
        mask: Bool (N, H, W), True where a place counts.
        weight: Float (N, H, W), 0 or above: how much it counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, channels that are no multiple of the groups, an option
            out of range.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> x = torch.tensor([0., 1.]).view(1, 2, 1, 1)  # two groups, one place
        >>> patch_contrast(x, x, groups=2, tau=1.)  # ln(1 + 1/e)
        tensor(0.3133)
    """
    _check_maps(student, teacher, groups)
    check_mask(mask, student)
    check_weight(weight, student)
    _check_options(groups, patch, pool, tau)
    with no_autocast(student):
        counts = counted(mask, weight)
        student, teacher = widen(student, teacher.detach())
        valid = student.new_ones(student[:, 0].shape) if counts is None else counts.to(student)
        shares = valid if weight is None else measure(weight, counts, student.dtype)
        student, teacher = (_pooled(x, counts, pool) for x in (student, teacher))
        # A window at the border is smaller, and so is its sum.
        number = _window_sum(valid, pool)
        shares = _window_sum(shares, pool) / number.clamp(min=1)
        ours, theirs = (_patches(x, groups, patch) for x in (student, teacher))
        there = _patches((number > 0).to(student).unsqueeze(1), 1, patch).squeeze(2) > 0
        each = _terms(ours, theirs, there.repeat_interleave(groups, 1), groups, tau)
        each = each.view(len(ours), -1, groups).mean(2)
        shares = _patches(shares.unsqueeze(1), 1, patch).squeeze(2)
        return weighted_mean(each, there, None if weight is None else shares)


def _terms(ours: Tensor, theirs: Tensor, there: Tensor, groups: int, tau: float) -> Tensor:
    """Return the cross-entropy of each place and group (B, patch² · M) of patches."""
    scores = -_distances(ours, theirs) / tau
    group = torch.arange(scores.shape[1], device=scores.device) % groups
    others = (group.unsqueeze(0) != group.unsqueeze(1)) & there.unsqueeze(1)
    own = scores.diagonal(dim1=1, dim2=2)
    negatives = scores.masked_fill(~others, torch.finfo(scores.dtype).min)
    return torch.logaddexp(own, negatives.logsumexp(2)) - own


def _distances(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the sums of absolute differences of rows (B, P, C) and (B, P, C), some B at a time.

    >>> _distances(torch.tensor([[[1.], [4.]]]), torch.tensor([[[0.], [2.]]])).tolist()
    [[[1.0, 1.0], [4.0, 2.0]]]
    """
    some = max(1, _ENTRIES // (ours.shape[1] * theirs.shape[1] * ours.shape[2]))
    pairs = zip(ours.split(some), theirs.split(some), strict=True)
    return torch.cat([torch.cdist(x, y, p=1) for x, y in pairs])


def _pooled(x: Tensor, counts: Tensor | None, pool: int) -> Tensor:
    """Return the largest of every window of a map, of what counts; 0 where nothing does."""
    x = infinite_to_nan(x)  # the maximum would leave −Inf out
    if counts is None:
        return F.max_pool2d(x, pool, ceil_mode=True)
    least = torch.finfo(x.dtype).min
    x = F.max_pool2d(torch.where(counts.unsqueeze(1), x, least), pool, ceil_mode=True)
    some = F.max_pool2d(counts.to(x).unsqueeze(1), pool, ceil_mode=True) > 0
    return torch.where(some, x, x.new_zeros(()))


def _window_sum(x: Tensor, pool: int) -> Tensor:
    sums = F.avg_pool2d(x.unsqueeze(1), pool, ceil_mode=True, divisor_override=1)
    return sums.squeeze(1)


def _patches(x: Tensor, groups: int, side: int) -> Tensor:
    """Return (N · patches, side² · groups, C / groups) of a map, 0 beyond its border.

    >>> _patches(torch.arange(4.).view(1, 2, 1, 2), 2, 1).tolist()
    [[[0.0], [2.0]], [[1.0], [3.0]]]
    """
    n, c, h, w = x.shape
    x = F.pad(x, (0, -w % side, 0, -h % side))
    rows, columns = x.shape[2] // side, x.shape[3] // side
    x = x.reshape(n, groups, c // groups, rows, side, columns, side)
    x = x.permute(0, 3, 5, 4, 6, 1, 2)
    return x.reshape(n * rows * columns, side * side * groups, c // groups)


def _check_maps(student: Tensor, teacher: Tensor, groups: int) -> None:
    check_features(student, teacher, 'contrast inside patches')
    if student.dim() != 4:
        raise ValueError(
            f'contrast inside patches needs maps (N, C, H, W), got student {shape_of(student)}; '
            "mend: a tap of a map, such as taps=dict(feat='auto:stages[-1]')"
        )
    if student.shape[1] % groups:
        raise ValueError(
            f'the {student.shape[1]} channels of student {shape_of(student)} are no multiple of '
            f'groups={groups}; mend: groups={_divisor(student.shape[1], groups)}, or another tap'
        )


def _divisor(channels: int, groups: int) -> int:
    """Return the largest number up to ``groups``, or the least above, that divides the channels.

    >>> _divisor(512, 20), _divisor(7, 2)
    (16, 7)
    """
    fits = [k for k in range(2, channels + 1) if channels % k == 0]
    return max((k for k in fits if k <= groups), default=min(fits, default=1))


def _check_options(groups: int, patch: int, pool: int, tau: float) -> None:
    check_count('groups', groups, 2)
    check_count('patch', patch, 1)
    check_count('pool', pool, 1)
    check_positive('tau', tau)


@MODELS.register_module()
class PatchContrastLoss(Loss):
    r"""Contrast inside patches after masked generation (Af-DCD); see :func:`patch_contrast`.

    The student's map, at random places 0, passes a generator, two 3×3 convolutions with a ReLU
    between them, which is trained with it; what comes out is compared with the teacher's map, by
    the contrast and by a mean square over everything. Without ``mask_ratio`` there is no generator.
    Masked positions are 0 in front of the convolutions.

    Args:
        groups: M: channels are divided into so many groups.
        patch: Side of a patch, in pooled places.
        pool: Side of a pooled place.
        tau: Temperature.
        contrast: Weight of the contrast.
        mimic: Weight of the mean square.
        mask_ratio: Share of the places that the generator does not see; None: no generator.
        teacher_channels: C; None: as the Distiller finds it.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: an option out of range, shapes that do not fit.
        RuntimeError: the channels are not known.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> x = torch.tensor([0., 1.]).view(1, 2, 1, 1)
        >>> PatchContrastLoss(2, tau=1., mask_ratio=None)(x, x)  # ln(1 + 1/e)
        tensor(0.3133)
    """

    roles = dict(student=Map(), teacher=Map())
    fixed = ('mask_ratio',)
    generator: nn.Sequential | None

    def __init__(
        self,
        groups: int = 16,
        patch: int = 4,
        pool: int = 4,
        tau: float = 0.07,
        contrast: float = 1.0,
        mimic: float = 0.0,
        mask_ratio: float | None = 0.75,
        teacher_channels: int | None = None,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        _check_options(groups, patch, pool, tau)
        check_non_negative('contrast', contrast)
        check_non_negative('mimic', mimic)
        if not contrast and not mimic:
            raise ValueError('contrast=0 and mimic=0 leave nothing to learn. Mend: contrast=1.0')
        self.groups, self.patch, self.pool, self.tau = groups, patch, pool, tau
        self.contrast, self.mimic, self.mask_ratio = contrast, mimic, mask_ratio
        self.generator = None
        if mask_ratio is not None:
            check_fraction('mask_ratio', mask_ratio)
        if teacher_channels is not None:
            check_count('teacher_channels', teacher_channels, 1)
            if mask_ratio is not None:
                self._make(teacher_channels)

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> str:
        """Make the generator, if the channels were left out.

        Returns:
            What was built, in words; '' for nothing.
        """
        _check_maps(student, teacher, self.groups)
        if self.generator is not None or self.mask_ratio is None:
            return ''
        self._make(teacher.shape[1], teacher.device)
        return f'generator of {teacher.shape[1]} channels'

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted loss of maps (N, C, H, W) under mask and weight (N, H, W)."""
        _check_maps(student, teacher, self.groups)
        check_mask(mask, student)
        check_weight(weight, student)
        with no_autocast(student):
            student, teacher = widen(student, teacher.detach())
            if self.mask_ratio is not None:
                student = fill_masked(student, counted(mask, weight))
                student = self._generated(student, self.mask_ratio)
            value = student.new_zeros(())
            if not self.contrast and not self.mimic:  # by a schedule: DDP waits for gradients
                value = 0.0 * fill_masked(student, counted(mask, weight)).sum()
            if self.contrast:
                options = self.groups, self.patch, self.pool, self.tau
                value = value + self.contrast * patch_contrast(
                    student, teacher, *options, mask, weight
                )
            if self.mimic:
                value = value + self.mimic * feature_matching(
                    student, teacher, mask=mask, weight=weight
                )
            return self.loss_weight * value

    def _generated(self, student: Tensor, ratio: float) -> Tensor:
        if self.generator is None:
            raise not_built('the generator is', 'teacher_channels=…')
        check_generator(self.generator, student)
        return call_in_dtype(self.generator, keep(student, drawn_places(student, ratio)))

    def _make(self, channels: int, device: torch.device | None = None) -> None:
        self.generator = generator_of(channels, device)
