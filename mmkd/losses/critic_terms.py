"""What KSANC adds to an adversarial loss: category-level supervision, and the norms of the critic's weights."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.batch import IGNORED_IMAGE, resize_labels
from mmkd.losses.base import shape_of


def category_cross_entropy(scores: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Cross-entropy of a critic's category units, averaged over the scores that count; exactly 0 where none does.

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
        raise ValueError(f'labels {shape_of(labels)} do not fit the category scores {shape_of(scores)}; mend: labels '
                         '(N,) for a critic with one score an image, (N, H, W) for one that scores places')
    counts = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid[:, 0]
    wrong = counts & ((labels < 0) | (labels >= scores.shape[1]))
    if wrong.any():
        raise ValueError(f'labels hold the ids {labels[wrong].unique().tolist()[:8]}, but the critic has '
                         f'{scores.shape[1]} categories (0 … {scores.shape[1] - 1}); mend: num_classes=… of the '
                         "critic, or, where ids are ignored, reads=dict(mask='batch.valid')")
    target = labels.long().masked_fill(~counts, IGNORED_IMAGE)
    return F.cross_entropy(scores, target, ignore_index=IGNORED_IMAGE, reduction='sum') / counts.sum().clamp(min=1)


def weight_norms(module: nn.Module, l1: float, l2: float) -> Tensor | float:
    """Return ``l1 · |ω|₁ + l2 · ‖ω‖₂²`` over the trainable parameters of a module.

    >>> weight_norms(nn.ParameterList([torch.tensor([1., -2.])]), 1., 10.)
    tensor(53., grad_fn=<AddBackward0>)
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    value: Tensor | float = 0.
    if l1:
        value = value + l1 * sum(p.abs().sum() for p in parameters)
    return value + l2 * sum(p.square().sum() for p in parameters) if l2 else value
