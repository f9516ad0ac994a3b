"""Parts of an adversarial loss: drawn positions, categories, norms of the critic's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.checks import shape_of
from mmkd.structures.batch import IGNORED_IMAGE, resize_labels


@contextmanager
def frozen(critic: nn.Module) -> Iterator[None]:
    """Let no parameter of the critic take part in graphs built inside."""
    parameters = [p for p in critic.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def draw_positions(
    number: int,
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Draw places of the batch without replacement, valid ones first, the same in every tensor.

    Args:
        number: How many; a batch with fewer places gives all of them.
        student: Map (N, C, *S).
        teacher: Map of the same shape.
        labels: Classes (N, *S), maps at another size are resized by nearest.
        mask: Bool (N, *S), True where a place may count.

    Returns:
        The vectors of student and teacher (P, C), labels (P,), and which of the P count (P,), all
        but those that had to be drawn beyond the valid ones.

    Examples:
        >>> x = torch.arange(6.).view(1, 1, 2, 3)
        >>> draw_positions(9, x, -x, mask=x[:, 0] > 4)[0].sum()  # more than there are: all of them
        tensor(15.)
        >>> draw_positions(1, x, -x, mask=x[:, 0] > 4)
        (tensor([[5.]]), tensor([[-5.]]), None, tensor([True]))
    """
    images, channels = student.shape[:2]
    key = torch.rand(student[:, 0].shape, device=student.device)
    if mask is not None:
        key = key.where(mask, -1)
    if labels is not None and student.dim() == 4:
        labels = resize_labels(labels, tuple(student.shape[2:])).flatten()
    drawn = key.flatten().topk(min(number, key.numel()), sorted=False).indices
    image, place = drawn // key[0].numel(), drawn % key[0].numel()
    vectors = [x.reshape(images, channels, -1)[image, :, place] for x in (student, teacher)]
    labels = None if labels is None else labels[drawn]
    return vectors[0], vectors[1], labels, None if mask is None else mask.flatten()[drawn]


def category_cross_entropy(scores: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Cross-entropy of a critic's category units, averaged over the scores that count.

    Exactly 0 where none does.

    Args:
        scores: (N, C) or (N, C, h, w).
        labels: (N,), or (N, H, W), which is resized by nearest to the scores.
        valid: Bool (N, 1) or (N, 1, h, w), True where a score counts; None: everywhere.

    Raises:
        ValueError: labels of another shape, or ids that no category has where the score counts.

    Examples:
        >>> scores = torch.tensor([[0., 0.], [1., 3.]]).log1p()
        >>> category_cross_entropy(scores, torch.tensor([0, 1]))  # (ln 2 + ln 3/2) / 2
        tensor(0.5493)
    """
    labels = resize_labels(labels, tuple(scores.shape[2:])) if scores.dim() == 4 else labels
    if labels.shape != (len(scores), *scores.shape[2:]):
        raise ValueError(
            f'labels {shape_of(labels)} do not fit the category scores {shape_of(scores)}; mend: '
            'labels (N,) for a critic with one score an image, (N, H, W) for one that scores places'
        )
    counts = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid[:, 0]
    wrong = counts & ((labels < 0) | (labels >= scores.shape[1]))
    if wrong.any():
        raise ValueError(
            f'labels hold the ids {labels[wrong].unique().tolist()[:8]}, but the critic has '
            f'{scores.shape[1]} categories (0 … {scores.shape[1] - 1}); mend: num_classes=… of the '
            "critic, or, where ids are ignored, reads=dict(mask='batch.valid')"
        )
    target = labels.long().masked_fill(~counts, IGNORED_IMAGE)
    entropy = F.cross_entropy(scores, target, ignore_index=IGNORED_IMAGE, reduction='sum')
    return entropy / counts.sum().clamp(min=1)


def weight_norms(module: nn.Module, l1: float, l2: float) -> Tensor | float:
    """Return ``l1 · |ω|₁ + l2 · ‖ω‖₂²`` over the trainable parameters of a module.

    >>> weight_norms(nn.ParameterList([torch.tensor([1., -2.])]), 1., 10.)
    tensor(53., grad_fn=<AddBackward0>)
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    value: Tensor | float = 0.0
    if l1:
        value = value + l1 * sum(p.abs().sum() for p in parameters)
    return value + l2 * sum(p.square().sum() for p in parameters) if l2 else value
