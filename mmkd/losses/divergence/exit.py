"""Exits: a stage of a student learns to say the classes, by labels and by the last exit."""

from torch import Tensor, nn

from mmkd.losses.base import Loss, Map, OfBatch
from mmkd.losses.checks import check_labels, check_mask, check_one_counts, check_weight, shape_of
from mmkd.losses.divergence.boosted_target_ce import boosted_target_ce
from mmkd.losses.divergence.mixed_target_ce import mixed_target_ce
from mmkd.losses.divergence.pixel_wise_kl import pixel_wise_kl
from mmkd.losses.functional import (
    call_in_dtype,
    counted,
    fill_masked,
    labelled,
    no_autocast,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_non_negative, check_positive, not_built
from mmkd.utils.resize import resize_map


@MODELS.register_module()
class ExitLoss(Loss):
    r"""Cross-entropy and distillation of an exit: a 1×1 convolution from a stage to the classes.

    Paper: Zhang et al., Be Your Own Teacher (BYOT), ICCV 2019, arXiv 1905.08094. With F the map of
    a stage, e = W F + b, and z the logits of the last exit, the student's own:

    .. math:: a \cdot \mathrm{CE}(e, y) + k \cdot \tau^2\, \mathrm{KL}(\mathrm{softmax}(z / \tau)
              \,\|\, \mathrm{softmax}(e / \tau))

    With ``power`` ε the distillation is that of OFA (Hao et al., NeurIPS 2023, arXiv 2310.19444),
    whose exits learn from another network's last word: k times
    :func:`mmkd.losses.divergence.boosted_target_ce.boosted_target_ce`, which counts the positions
    that have a label. Its authors' exits are separable convolutions, pooled, and a linear layer.

    Of label maps e is a map at the stage's size, to which z is resized; of images F is averaged
    over its places first. z receives no gradient; it must be finite wherever it reaches a place
    that counts, since it is resized before the mask is looked at. The authors' exits are some
    convolutions deep; their distillation is a cross-entropy without τ², which has the gradient of
    the KL divided by τ²; it is not published for label maps.

    Normaliser: that of both parts, the valid positions of the whole batch; the cross-entropy counts
    those that have a label.

    The head is the loss's own: it is in the student's optimizer and in no exported student.

    Args:
        ce: a, 0 or above.
        kd: k, 0 or above.
        tau: Temperature of the distillation.
        ignore_index: The label of a place of a map that has no class.
        student_channels: Of the stage; None: as the Distiller finds them.
        num_classes: Likewise.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.
        power: ε of OFA's distillation, above 0; None: the KL.

    Raises:
        ValueError: Both parts are 0; maps that do not fit.

    Examples:
        >>> import torch
        >>> loss = ExitLoss(ce=1., kd=9., tau=3., student_channels=1, num_classes=2)
        >>> for p in loss.parameters():
        ...     _ = p.data.fill_(0.)
        >>> stage, last = torch.ones(1, 1, 2, 2), 3 * torch.tensor([[3., 1.]]).log()
        >>> value = loss(stage, last, torch.tensor([0]))  # ln 2 + 81 (3/4 ln 3/2 + 1/4 ln 1/2)
        >>> round(value.item(), 4)
        11.2889
    """

    # the stage has channels of its own, and gives labels their size
    roles = dict(student=Map(alike=()), teacher=Map(alike=(), class_logits=True), labels=OfBatch())
    head: nn.Conv2d | None

    def __init__(
        self,
        ce: float = 0.7,
        kd: float = 0.3,
        tau: float = 3.0,
        ignore_index: int = 255,
        student_channels: int | None = None,
        num_classes: int | None = None,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
        power: float | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        if power is not None:
            check_positive('power', power)
        check_non_negative('ce', ce)
        check_non_negative('kd', kd)
        check_positive('tau', tau)
        check_one_counts('an exit', ce=ce, kd=kd)
        self.ce, self.kd, self.tau, self.ignore_index = ce, kd, tau, ignore_index
        self.power = power
        self.head = None
        if student_channels is not None and num_classes is not None:
            self.head = nn.Conv2d(student_channels, num_classes, 1)

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> str:
        """Make the head; return what was made, in words, '' for nothing."""
        if self.head is not None:
            return ''
        _check(student, teacher)
        self.head = nn.Conv2d(student.shape[1], teacher.shape[1], 1, device=student.device)
        return f'exit {student.shape[1]} -> {teacher.shape[1]} classes'

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
            teacher: Logits of the last exit (N, K, h, w), or (N, K) of images.
            labels: Classes (N, H, W), or (N,).
            mask: Bool, of the labels' shape, True where a position counts.
            weight: Float, likewise: how much it counts.
        """
        if self.head is None:
            raise not_built(
                'the exit is',
                'student_channels=… and num_classes=…',
                'build(student=…, teacher=…, labels=…)',
            )
        _check(student, teacher)
        pooled = teacher.dim() == 2
        like = student[:, :, 0, 0] if pooled else student
        check_mask(mask, like)
        check_weight(weight, like)
        valid = mask
        if not self.kd or self.power is not None:  # nothing is learned without a label
            check_labels(labels, like, 'an exit')
            valid = labelled(labels, self.head.out_channels, self.ignore_index, mask)
        with no_autocast(student):
            stage, last = widen(student, teacher.detach())
            logits = say(self.head, stage, counted(valid, weight), pooled)
            if last.dim() == 4 and last.shape[2:] != logits.shape[2:]:
                last = resize_map(last, logits.shape[2:])
            value = logits.new_zeros(())
            if not self.ce and not self.kd:  # by a schedule: DDP waits for the exit's gradients
                value = 0.0 * logits.sum()
            if self.ce:
                value = value + self.ce * mixed_target_ce(
                    logits, labels, None, 0.0, self.ignore_index, mask, weight
                )
            if self.kd:
                value = value + self.kd * self._distil(logits, last, labels, mask, weight)
            return self.loss_weight * value

    def _distil(
        self,
        logits: Tensor,
        last: Tensor,
        labels: Tensor,
        mask: Tensor | None,
        weight: Tensor | None,
    ) -> Tensor:
        if self.power is None:
            return pixel_wise_kl(logits, last, self.tau, mask=mask, weight=weight)
        return boosted_target_ce(
            logits, last, labels, self.power, self.tau, self.ignore_index, mask, weight
        )


def say(head: nn.Module, stage: Tensor, counts: Tensor | None, pooled: bool) -> Tensor:
    """Return what an exit says of a stage (N, C, H, W): a class map, or logits (N, K) of images.

    Args:
        head: From the stage to the classes.
        stage: In float32 or wider.
        counts: Bool (N, H, W), or (N,) of images: what counts; None: all.
        pooled: Whether images have a class, and a stage is averaged over its places first.

    >>> import torch
    >>> say(nn.Identity(), torch.tensor([[[[1., 3.]]]]), None, pooled=True)
    tensor([[2.]])
    """
    # what lies where nothing counts would reach the gradient of the head
    if counts is not None and counts.dim() == 1:
        counts = counts[:, None, None]
    stage = fill_masked(stage, counts)
    if pooled:
        stage = stage.mean((2, 3), keepdim=True)
    logits = call_in_dtype(head, stage)
    return logits.flatten(1) if pooled else logits


def _check(student: Tensor, teacher: Tensor) -> None:
    if student.dim() != 4 or teacher.dim() not in (2, 4) or len(student) != len(teacher):
        raise ValueError(
            'an exit reads a stage (N, C, H, W) and class logits (N, K, h, w) or (N, K), got '
            f'student {shape_of(student)}, teacher {shape_of(teacher)}; mend: taps=dict(stage='
            "'auto:stages[0]', logits='auto')"
        )
