"""What metrics read of a prediction, be it of a classifier or of a segmentor."""

from typing import Any

import torch
from torch import Tensor

from mmkd.structures.batch import IGNORED_IMAGE

FEW = 4.0


def is_ood(sample: dict) -> bool:
    """Return whether a sample is marked as out of distribution, by ``ood=True`` in its metainfo."""
    return bool(sample.get('ood', False))


def logits_of(sample: dict, scores: bool = False) -> Tensor:
    r"""Return the logits (1, C, \*S) of a predicted sample, log-probabilities where it has none.

    Args:
        sample: A data sample as a dict with ``seg_logits`` (mmseg), ``pred_logits`` or
            ``pred_score`` (classifiers).
        scores: Whether ``seg_logits`` are scores of 0 or above, as heads that answer with queries
            give them: what is returned is their logarithm, whose softmax is the share of each.

    Raises:
        KeyError: It holds none of them.
        ValueError: ``seg_logits`` that are such scores, as far as can be seen.

    >>> logits_of(dict(pred_score=torch.tensor([0.5, 0.5]))).exp()
    tensor([[0.5000, 0.5000]])
    """
    if 'seg_logits' in sample:
        found = sample['seg_logits']['data'][None]
        if scores:
            return found.float().clamp(min=torch.finfo(torch.float32).tiny).log()
        _refuse_scores(found)
        return found
    if 'pred_logits' in sample:
        return sample['pred_logits'][None]
    if 'pred_score' in sample:
        score = sample['pred_score']
        return score.clamp(min=torch.finfo(score.dtype).tiny).log()[None]
    raise KeyError(
        "a prediction holds 'seg_logits', 'pred_logits' or 'pred_score', this one "
        f'{_fields(sample)}. Mend: these are what mmseg segmentors, mmkd.ImageClassifier and '
        'mmkd.Ensemble give'
    )


def _refuse_scores(found: Tensor) -> None:
    """Refuse what lies between 0 and a few: no logits of a network that has learned do."""
    if found.shape[1] > 1 and found.min() >= 0 and 0 < found.max() < FEW:
        raise ValueError(
            f'seg_logits lie between {found.min():.3g} and {found.max():.3g}, as scores of heads '
            'that answer with queries do (MaskFormer, Mask2Former, SAN); a softmax of them would '
            "be near uniform. Mend: outputs='scores' of the metric"
        )


def labels_of(sample: dict, ignore_index: int) -> tuple[Tensor, Tensor]:
    r"""Return the labels (1, \*S) of a sample and the bool mask of those that count.

    Raises:
        KeyError: It holds no labels.
    """
    if 'gt_sem_seg' in sample:
        labels = sample['gt_sem_seg']['data']
    elif 'gt_label' in sample:
        labels = torch.as_tensor(sample['gt_label']).view(1)
        return labels, labels != IGNORED_IMAGE  # 255 is a class like any other
    else:
        raise KeyError(
            f"a sample holds the truth in 'gt_sem_seg' or 'gt_label', this one {_fields(sample)}. "
            'Mend: load annotations in the test pipeline, or mark out-of-distribution samples by '
            'ood=True in their metainfo'
        )
    return labels, labels != ignore_index


def _fields(sample: dict[str, Any]) -> str:
    return f'has {sorted(sample)}'
