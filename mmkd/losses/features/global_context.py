"""Global context: maps compared after what lies elsewhere in the image was added to each place."""

import torch
from torch import Tensor, nn

from mmkd.losses.base import Loss
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.features.point_wise import check_features
from mmkd.losses.functional import (
    call_in_dtype,
    fill_masked,
    no_autocast,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_count, not_built

BLOCKS = ('shared', 'two')


class ContextBlock(nn.Module):
    r"""Return what is added to each place of a map (N, C, P): what lies elsewhere, by channel.

    .. math:: g_n = W_2 \, \mathrm{ReLU}(\mathrm{LN}(W_1 \sum_i a_{ni} F_{ni})), \quad
              a_n = \operatorname{softmax}_i (w \cdot F_{ni})

    Paper: Cao et al., GCNet, 2019, arXiv 1904.11492. W₁ makes C / 2 channels, W₂ begins as 0, so
    that a new block adds nothing.

    Args:
        channels: C.

    >>> ContextBlock(4)(torch.randn(2, 4, 9))[0]
    tensor([0., 0., 0., 0.], grad_fn=<SelectBackward0>)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.attention = nn.Linear(channels, 1)
        self.transform = nn.Sequential(
            nn.Linear(channels, inner),
            nn.LayerNorm(inner),
            nn.ReLU(),
            nn.Linear(inner, channels),
        )
        nn.init.kaiming_normal_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)
        last = self.transform[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the context (N, C) of maps (N, C, P) under what counts (N, P), above 0."""
        scores = self.attention(x.mT).squeeze(-1)
        if valid is not None:
            known = valid > 0
            # of an image without a valid place, whose map is 0, any attention does
            scores = scores.where(known | ~known.any(1, keepdim=True), -torch.inf)
        context = torch.einsum('ni,nci->nc', scores.softmax(1), x)
        return self.transform(context)


def global_context(
    student: Tensor,
    teacher: Tensor,
    ours: ContextBlock,
    theirs: ContextBlock,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Mean squared difference of maps to which each side's context was added.

    Paper: Yang et al., Focal and Global Knowledge Distillation for Detectors (FGD), CVPR 2022,
    arXiv 2111.11837, the global part.

    .. math:: L = \frac{1}{\sum_{n, i} w_{ni}} \sum_{n, i} w_{ni} \frac{1}{C} \sum_c
              (F^s_{nci} + g^s_{nc} - F^t_{nci} - g^t_{nc})^2

    with g of :class:`ContextBlock`. The blocks learn from this loss, as in the authors' code: what
    they add can cancel the difference of the means over places of an image, of each channel. With
    one block for both sides the value is 0 where the maps are equal, whatever it has learned. With
    two of them, the authors' way, it is so until they have moved.

    Normaliser: a mean over positions and channels. The authors' code sums over both and divides by
    N, so that its λ is this loss times λ C P.

    Args:
        student: Features (N, C, \*S) with at least one spatial axis.
        teacher: The same; receives no gradient, but its block does.
        ours: Block of the student's side.
        theirs: Block of the teacher's side.
        mask: Bool (N, \*S), True where a position counts; no context holds the others.
        weight: Float (N, \*S), 0 or above: how much a position counts in the mean.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: maps without places or of other shapes.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> block = ContextBlock(2)  # a new one adds nothing
        >>> global_context(torch.ones(1, 2, 3), 4 * torch.ones(1, 2, 3), block, block).item()
        9.0
    """
    check_features(student, teacher, 'global context')
    if student.dim() < 3:
        raise ValueError(
            f'global context needs maps (N, C, *S) of places, got student {shape_of(student)}; '
            'mend: a tap of maps, such as a level of the neck'
        )
    check_mask(mask, student)
    check_weight(weight, student)
    with no_autocast(student):
        student, teacher = (fill_masked(x, mask) for x in widen(student, teacher.detach()))
        valid = [] if mask is None else [mask.flatten(1)]
        own, other = (
            call_in_dtype(block, x.flatten(2), *valid)
            for block, x in ((ours, student), (theirs, teacher))
        )
        apart = (own - other).view(*own.shape, *[1] * (student.dim() - 2))
        squares = (student - teacher + apart).square().mean(1)
        return weighted_mean(squares, mask, weight)


@MODELS.register_module()
class GlobalContextLoss(Loss):
    r"""Maps with what lies elsewhere added (FGD's global part); see :func:`global_context`.

    The blocks are the loss's own: in the student's optimizer and the checkpoint, in no exported
    student.

    Args:
        blocks: 'shared': one for both sides, so that equal maps are at no distance; 'two': one for
            each, as the authors have it.
        teacher_channels: C; None: as the Distiller finds it.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: an option out of range.
        RuntimeError: the channels are not known.

    Examples:
        >>> loss = GlobalContextLoss(teacher_channels=2)
        >>> loss(torch.ones(1, 2, 4, 4), 4 * torch.ones(1, 2, 4, 4)).item()
        9.0
    """

    ours: ContextBlock | None
    theirs: ContextBlock | None

    def __init__(
        self,
        blocks: str = 'shared',
        teacher_channels: int | None = None,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_choice('blocks', blocks, BLOCKS)
        self.blocks = blocks
        self.ours = self.theirs = None
        if teacher_channels is not None:
            check_count('teacher_channels', teacher_channels, 1)
            self._make(teacher_channels)

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> str:
        """Make the blocks, if the channels were left out.

        Returns:
            What was built, in words; '' for nothing.
        """
        if self.ours is not None:
            return ''
        self._make(teacher.shape[1], teacher.device)
        number = 'a context block' if self.blocks == 'shared' else 'two context blocks'
        return f'{number} of {teacher.shape[1]} channels'

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under mask and weight (N, \*S)."""
        if self.ours is None:
            raise not_built('the context blocks are', 'teacher_channels=…')
        channels = self.ours.attention.in_features
        if student.shape[1] != channels:
            raise ValueError(
                f'the context blocks are of {channels} channels, got student {shape_of(student)}; '
                f'mend: teacher_channels={student.shape[1]} (or None), or the tap that they were '
                'made for'
            )
        theirs = self.ours if self.theirs is None else self.theirs
        return self.loss_weight * global_context(student, teacher, self.ours, theirs, mask, weight)

    def _make(self, channels: int, device: torch.device | None = None) -> None:
        self.ours = ContextBlock(channels).to(device)
        if self.blocks == 'two':
            self.theirs = ContextBlock(channels).to(device)
