"""Exits of student and teacher: stages of both say the classes, and the better word is learned."""

import torch
from torch import Tensor, nn

from mmkd.losses.base import Loss, Map, OfBatch
from mmkd.losses.checks import check_labels, check_mask, check_weight, shape_of
from mmkd.losses.divergence.exit import say
from mmkd.losses.divergence.reliability_mix import OVER, label_ce, reliability_mix
from mmkd.losses.divergence.split import at_labels
from mmkd.losses.functional import (
    fill_masked,
    infinite_to_nan,
    no_autocast,
    weighted_mean,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import (
    check_choice,
    check_count,
    check_non_negative,
    check_positive,
    not_built,
)
from mmkd.utils.resize import resize_map


@MODELS.register_module()
class MixedExitLoss(Loss):
    r"""Exits of a stage of both members, a target mixed of them, and the labels.

    Paper: Huang et al., HeteroAKD, AAAI 2025, arXiv 2504.07691: features of a convolutional network
    and of a transformer are compared in the space of the classes. With F the map of a stage and
    e = W F + b:

    .. math:: k \cdot \mathrm{mix}(e^s, e^t, y) + c \cdot \big\langle H(e^s)_{ij} + H(e^t)_{ij}
              \big\rangle_{i \in V, j}

    mix is :func:`mmkd.losses.divergence.reliability_mix.reliability_mix`, which says where its
    formula is from and what is not known of it. H is the cross-entropy of each class as a yes or
    no, by which mix judges what the exits say. This term is that of one of the two implementations
    by others, which says that the paper prints none. Without any, nothing would make the exit of
    the teacher's stage say the classes: it learns by this term alone, since the target of mix
    receives no gradient.

    The exits are 1×1 convolutions; the paper's are told to have normalisation and a ReLU behind
    them, after which σ is never below 1/2 and no class could be denied. The teacher's is resized to
    the student's; where their sizes differ it must be finite everywhere. Of images the stages are
    averaged over their places first. The teacher needs neither the student's classes nor any
    classifier.

    Normaliser: that of mix; the labels' term is the mean over the valid places of the whole batch
    that have a label, and over classes.

    The exits are the loss's own: they are in the student's optimizer and in no exported student.

    Args:
        num_classes: What the labels say, 2 or more.
        kd: k, 0 or above.
        ce: c, above 0.
        tau: Temperature of the mix.
        over: 'places' or 'classes', of the mix.
        ignore_index: The label of a place of a map that has no class.
        student_channels: Of the stage; None: as the Distiller finds them.
        teacher_channels: Likewise.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: An option out of range; maps that do not fit.

    Examples:
        >>> loss = MixedExitLoss(2, kd=9., ce=2., student_channels=1, teacher_channels=1)
        >>> for p in loss.parameters():
        ...     _ = p.data.fill_(0.)
        >>> loss(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 4, 4), torch.tensor([0]))  # 2 · 2 ln 2
        tensor(2.7726, grad_fn=<MulBackward0>)
    """

    # stages have channels and a size of their own; the student's gives labels their size
    roles = dict(student=Map(alike=()), teacher=Map(alike=()), labels=OfBatch())

    def __init__(
        self,
        num_classes: int,
        kd: float = 1.0,
        ce: float = 1.0,
        tau: float = 4.0,
        over: str = 'places',
        ignore_index: int = 255,
        student_channels: int | None = None,
        teacher_channels: int | None = None,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_count('num_classes', num_classes, 2)
        check_non_negative('kd', kd)
        check_positive('ce', ce)
        check_positive('tau', tau)
        check_choice('over', over, OVER)
        self.num_classes, self.kd, self.ce, self.tau = num_classes, kd, ce, tau
        self.over, self.ignore_index = over, ignore_index
        self.exits = nn.ModuleDict()
        given = dict(student=student_channels, teacher=teacher_channels)
        for side, channels in given.items():
            if channels is not None:
                self.exits[side] = nn.Conv2d(channels, num_classes, 1)

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> str:
        """Make the exits that are not there; return what was made, in words, '' for nothing."""
        _check(student, teacher, labels)
        made = []
        for side, stage in (('student', student), ('teacher', teacher)):
            if side not in self.exits:
                channels = stage.shape[1]
                self.exits[side] = nn.Conv2d(channels, self.num_classes, 1, device=stage.device)
                made.append(f'exit of {side} {channels} -> {self.num_classes} classes')
        return ', '.join(made)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss.

        Args:
            student: Map of a stage (N, C, H, W).
            teacher: Map of a stage (N, D, h, w).
            labels: Classes (N, H, W), or (N,) of images.
            mask: Bool, of the labels' shape, True where a position counts.
            weight: Float, likewise: how much it counts.
        """
        if len(self.exits) < 2:
            raise not_built(
                'the exits are',
                'student_channels=… and teacher_channels=…',
                'build(student=…, teacher=…, labels=…)',
            )
        _check(student, teacher, labels)
        pooled = labels.dim() == 1
        like = student[:, :, 0, 0] if pooled else student
        check_labels(labels, like, 'an exit')
        check_mask(mask, like)
        check_weight(weight, like)
        with no_autocast(student):
            ours, theirs = widen(student, teacher.detach())
            # before the exits: features without a label would reach the gradient of their weights
            valid, counts, target = at_labels(
                labels, self.num_classes, self.ignore_index, mask, weight
            )
            s = say(self.exits['student'], ours, counts, pooled)
            # of another size, a place of the teacher's map may reach one that counts
            alike = pooled or theirs.shape[2:] == student.shape[2:]
            t = say(self.exits['teacher'], theirs, counts if alike else None, pooled)
            if t.shape != s.shape:
                t = resize_map(t, s.shape[2:])
            # softplus makes 0 of −Inf
            seen = (infinite_to_nan(fill_masked(x, counts)) for x in (s, t))
            wrong = torch.stack([label_ce(x, target).mean(1) for x in seen]).sum(0)
            value = self.ce * weighted_mean(wrong, valid, weight)
            if self.kd:
                value = value + self.kd * reliability_mix(
                    s, t, labels, self.tau, self.over, self.ignore_index, mask, weight
                )
            return self.loss_weight * value


def _check(student: Tensor, teacher: Tensor, labels: Tensor) -> None:
    if student.dim() != 4 or teacher.dim() != 4 or len(student) != len(teacher):
        raise ValueError(
            'exits read a stage (N, C, H, W) of student and of teacher, got student '
            f"{shape_of(student)}, teacher {shape_of(teacher)}; mend: taps=dict(stage='auto:"
            "stages[-1]')"
        )
    if labels.dim() not in (1, 3):
        raise ValueError(
            f'exits need labels (N, H, W), or (N,) of images, got {shape_of(labels)}; mend: '
            "reads=dict(labels='batch.labels')"
        )
