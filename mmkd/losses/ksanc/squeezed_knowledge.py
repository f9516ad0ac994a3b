"""Squeezed knowledge: KSANC's distance between the attended descriptors of all stages."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.base import Loss, Many, Map, OfBatch
from mmkd.losses.checks import check_levels, check_stages, shape_of
from mmkd.losses.functional import call_in_dtype, no_autocast, widen
from mmkd.losses.ksanc.attention_estimator import AttentionEstimator
from mmkd.registry import MODELS
from mmkd.structures.batch import IGNORED_IMAGE
from mmkd.utils.checks import check_choice, check_count, not_built


def squeezed_knowledge(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    r"""Squared distance of the squeezed descriptors of all stages.

    Paper: Shu et al., Knowledge Squeezed Adversarial Network Compression (KSANC), arXiv 1904.05100,
    the loss L_is.

    .. math:: L_{is} = \frac{1}{N} \sum_n \sum_i \Vert \tilde g^i_S - \tilde g^i_T \Vert_2^2

    Normaliser: averaged over images, summed over stages i and channels.

    Args:
        student: Descriptors (N, F_i), one tensor a stage.
        teacher: Descriptors of the same shapes; they receive no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Examples:
        >>> import torch
        >>> teacher = [torch.ones(2, 3), torch.tensor([[2.], [0.]])]
        >>> squeezed_knowledge([torch.zeros(2, 3), torch.zeros(2, 1)], teacher)  # 3 + (4 + 0) / 2
        tensor(5.)
    """
    s, t = widen(torch.cat(list(student), 1), torch.cat(list(teacher), 1).detach())
    return (s - t).square().sum(1).mean()


@MODELS.register_module()
class SqueezedKnowledgeLoss(Loss):
    r"""The distance of estimated descriptors, with the estimators; see :func:`squeezed_knowledge`.

    Per stage and network an :class:`mmkd.losses.AttentionEstimator`; the student's begins with the
    transform convolution to the teacher's channels. Maps of a stage may differ in height and width
    between the networks. The figure's further convolution before the global descriptor is linear
    like the estimator's own, and one with it.

    **The teacher's side cannot collapse.** If the distance could move both sides, both would shrink
    to 0. Here it only moves the student's: the teacher's descriptors enter it detached. The
    teacher's estimators learn from a task of their own: with ``num_classes``, a linear classifier
    reads the labels from the teacher's descriptors of all stages, by cross-entropy for image labels
    (N,), by binary cross-entropy of each class's presence in the image for label maps (N, H, W).
    This value is added to the distance. The two share no parameter, so neither moves what the other
    does, and ``loss_weight`` multiplies the distance alone: a small λ₃ does not slow down the
    estimators. Without ``num_classes`` the teacher's estimators stay as they were drawn, frozen.
    ``diagnostics``: ``squeezed`` (the distance) and ``estimator_task``.

    All of it belongs to the student's optimizer. Nothing of it is needed after training.

    Args:
        student_channels: Channels of the student's stages; None: as the Distiller finds them.
        teacher_channels: Channels F_i of the teacher's stages.
        student_global_channels: Length of the student's global descriptor.
        teacher_global_channels: Length of the teacher's.
        multiply: 'fused', as the equation, or 'feature', as the figure, where global descriptors
            have no effect.
        pooling: 'sum', or 'avg' as printed, which divides every descriptor by its stage's H·W, so
            that large stages vanish.
        num_classes: Classes C of the task that trains the teacher's estimators; needs ``labels``.
        ignore_index: The label of a pixel that does not count; an image's is −100.
        loss_weight: Factor of the distance.
        loss_name: Key in the logs.

    Raises:
        ValueError: stages that do not fit each other or the estimators, labels that are missing,
            all ignored or of no class, an unknown option.

    Examples:
        >>> loss = SqueezedKnowledgeLoss([1], [2], 3, 4)
        >>> for p in loss.parameters():  # student: (1 · 1 + 1) + 3 + 1, teacher: 1 + 4 + 1
        ...     _ = p.data.fill_(1.)
        >>> student, teacher = [torch.ones(1, 1, 8, 8)], [torch.ones(1, 2, 4, 4)]
        >>> loss(student, teacher, torch.ones(1, 3), torch.ones(1, 4)).item()
        0.0
        >>> loss(student, [torch.zeros(1, 2, 4, 4)], torch.ones(1, 3), torch.ones(1, 4)).item()
        2.0
    """

    # The estimators bring every stage to one length. Which classes an image shows, a coarser map of
    # labels would not tell.
    roles = dict(
        student=Many(),
        teacher=Many(),
        student_global=Map(alike=()),
        teacher_global=Map(alike=()),
        labels=OfBatch(whole=True),
    )
    fixed = ('num_classes',)
    student_estimators: nn.ModuleList | None
    teacher_estimators: nn.ModuleList | None
    classifier: nn.Linear | None

    def __init__(
        self,
        student_channels: Sequence[int] | None = None,
        teacher_channels: Sequence[int] | None = None,
        student_global_channels: int | None = None,
        teacher_global_channels: int | None = None,
        multiply: str = 'fused',
        pooling: str = 'sum',
        num_classes: int | None = None,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_choice('multiply', multiply, ('fused', 'feature'))
        check_choice('pooling', pooling, ('sum', 'avg'))
        if num_classes is not None:
            check_count('num_classes', num_classes, 2)
        if student_channels is not None and teacher_channels is not None:
            check_stages(student_channels, teacher_channels, 'student_channels', 'teacher_channels')
        self.multiply, self.pooling = multiply, pooling
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.channels: list[Any] = [student_channels, teacher_channels]
        self.channels += [student_global_channels, teacher_global_channels]
        self.student_estimators = self.teacher_estimators = self.classifier = None
        if None not in self.channels:
            self._make()

    def build(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        student_global: Tensor,
        teacher_global: Tensor,
        labels: Tensor | None = None,
    ) -> str:
        """Make the estimators whose channels were left out.

        Returns:
            What was built, in words; '' for nothing.
        """
        if self.student_estimators is not None:
            return ''
        check_levels(student, teacher)
        found: list[Any] = [_channels(student), _channels(teacher)]
        found += [student_global.shape[1], teacher_global.shape[1]]
        self.channels = [f if c is None else c for c, f in zip(self.channels, found, strict=True)]
        self._make()
        self.to(student[0].device)
        what = (
            f'attention estimators of stages {list(self.channels[0])} -> {list(self.channels[1])} '
            'channels'
        )
        if self.num_classes:
            return what
        return (
            f"{what}; the teacher's stay as drawn (num_classes=… and "
            "reads=dict(labels='batch.labels') train them)"
        )

    def forward(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        student_global: Tensor,
        teacher_global: Tensor,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted distance, with the task loss of the teacher's estimators if any.

        Args:
            student: Maps (N, Fs_i, Hs_i, Ws_i), one a stage.
            teacher: Maps (N, Ft_i, Ht_i, Wt_i).
            student_global: Global descriptors (N, Ds), such as what the last layer reads; a map (N,
                Ds, H, W) is averaged over its positions.
            teacher_global: Global descriptors (N, Dt).
            labels: Labels (N,) or (N, H, W); with ``num_classes`` only.
        """
        if self.student_estimators is None or self.teacher_estimators is None:
            raise not_built(
                'the estimators are',
                'student_channels=[…], teacher_channels=[…], student_global_channels=…, '
                'teacher_global_channels=…',
                'build(student=…, …)',
            )
        self._check(student, teacher, student_global, teacher_global, labels)
        with no_autocast(student[0]):
            *maps, g_s, g_t = widen(*student, *teacher, student_global, teacher_global)
            g_s, g_t = (g.flatten(2).mean(2) if g.dim() > 2 else g for g in (g_s, g_t.detach()))
            stages = len(student)
            s = _estimate(self.student_estimators, maps[:stages], g_s)
            t = _estimate(self.teacher_estimators, [x.detach() for x in maps[stages:]], g_t)
            distance = squeezed_knowledge(s, t)
            found, value = dict(squeezed=distance.detach()), self.loss_weight * distance
            if self.classifier is not None and labels is not None:
                task = self._task(call_in_dtype(self.classifier, torch.cat(t, 1)), labels)
                found['estimator_task'] = task.detach()
                value = value + task
            self.diagnostics = found
            return value

    def _make(self) -> None:
        student, teacher, student_global, teacher_global = self.channels
        check_stages(student, teacher, 'student_channels', 'teacher_channels')
        options: dict[str, Any] = dict(multiply=self.multiply, pooling=self.pooling)
        self.student_estimators = nn.ModuleList(
            AttentionEstimator(out, student_global, fan_in, **options)
            for fan_in, out in zip(student, teacher, strict=True)
        )
        self.teacher_estimators = nn.ModuleList(
            AttentionEstimator(c, teacher_global, **options) for c in teacher
        )
        if self.num_classes is None:  # nothing trains them: no optimizer and no DDP should wait
            self.teacher_estimators.requires_grad_(False)
        else:
            self.classifier = nn.Linear(sum(teacher), self.num_classes)

    def _task(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = labels.long()
        ignored = IGNORED_IMAGE if labels.dim() == 1 else self.ignore_index
        valid, classes = labels != ignored, logits.shape[1]
        _check_labels(labels, valid, classes, ignored)  # where none counts, the value is 0
        if labels.dim() == 1:
            total = F.cross_entropy(logits, labels, ignore_index=ignored, reduction='sum')
            return total / valid.sum().clamp(min=1)
        # The ignored go to a column of their own.
        places = labels.masked_fill(~valid, classes).flatten(1)
        present = logits.new_zeros(len(logits), classes + 1).scatter_(1, places, 1.0)[:, :classes]
        entropy = F.binary_cross_entropy_with_logits(logits, present, reduction='none').mean(1)
        counts = valid.flatten(1).any(1)
        return entropy.where(counts, 0.0).sum() / counts.sum().clamp(min=1)

    def _check(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        student_global: Tensor,
        teacher_global: Tensor,
        labels: Tensor | None,
    ) -> None:
        check_levels(student, teacher)
        images = len(student[0])
        s_channels, t_channels, s_global, t_global = self.channels
        _check_channels('student', student, s_channels)
        _check_channels('teacher', teacher, t_channels)
        _check_global('student_global', student_global, images, s_global)
        _check_global('teacher_global', teacher_global, images, t_global)
        if labels is None and self.num_classes is not None:
            raise ValueError(
                f"num_classes={self.num_classes} trains the teacher's estimators on labels, but "
                "none were given; mend: reads=dict(labels='batch.labels')"
            )
        if labels is not None and self.num_classes is None:
            raise ValueError(
                'labels were given, but there is no classifier to train on them; mend: '
                'num_classes=…'
            )
        if labels is not None and (labels.dim() not in (1, 3) or len(labels) != images):
            raise ValueError(
                f'labels must be ({images},) or ({images}, H, W), got {shape_of(labels)}'
            )


def _channels(maps: Sequence[Tensor]) -> list[int]:
    return [x.shape[1] for x in maps]


def _estimate(estimators: nn.ModuleList, maps: Sequence[Tensor], global_: Tensor) -> list[Tensor]:
    """Return the descriptor of every stage."""
    pairs = zip(estimators, maps, strict=True)
    return [call_in_dtype(estimator, x, global_) for estimator, x in pairs]


def _check_channels(role: str, maps: Sequence[Tensor], channels: Sequence[int]) -> None:
    if _channels(maps) != list(channels):
        raise ValueError(
            f'{role} has stages of {_channels(maps)} channels, but the estimators are of '
            f'{list(channels)}; mend: {role}_channels={_channels(maps)} (or None)'
        )


def _check_global(role: str, x: Tensor, images: int, channels: int) -> None:
    if x.dim() < 2 or x.shape[:2] != (images, channels):
        raise ValueError(
            f'{role} must be a descriptor ({images}, {channels}) or a map of so many channels, got '
            f'{shape_of(x)}; mend: {role}_channels (or None), or the tap'
        )


def _check_labels(labels: Tensor, valid: Tensor, classes: int, ignored: int) -> None:
    wrong = valid & ((labels < 0) | (labels >= classes))
    if wrong.any():
        raise ValueError(
            f'labels hold the ids {labels[wrong].unique().tolist()[:8]}, but num_classes={classes} '
            f'(0 … {classes - 1}; {ignored} is ignored); mend: num_classes, or ignore_index'
        )
