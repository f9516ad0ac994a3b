"""Labels that are classes, of pixels or of whole images: what both tasks do with them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.structures.batch import Batch, is_labelled


def check_ids(batch: Batch, num_classes: int | None, paths: tuple[str, ...], mend: str) -> bool:
    """Refuse labels that no class has; return whether any position is valid.

    Args:
        batch: The batch.
        num_classes: Of the student; None leaves the labels alone.
        paths: Entries of the metainfo that name the files.
        mend: The way out.

    Raises:
        ValueError: An id is outside 0 … num_classes − 1 and is not the ignore index; names the
            files that hold it.
    """
    if num_classes is None:
        return True
    labels, valid = batch.labels, batch.valid
    wrong = valid & ((labels < 0) | (labels >= num_classes))
    has_wrong, has_valid = torch.stack([wrong.any(), valid.any()]).tolist()  # one synchronisation
    if has_wrong:
        files = batch.files(*paths, chosen=wrong.view(len(wrong), -1).any(1))
        raise ValueError(
            f'labels hold the ids {labels[wrong].unique().tolist()[:8]}, but the student has '
            f'{num_classes} classes (0 … {num_classes - 1}; {batch.ignored} is ignored){files}. '
            f'Mend: {mend}'
        )
    return has_valid


def tell_ignored(batch: Batch, paths: tuple[str, ...], mend: str) -> str:
    """Return what is to be said of a batch whose labels are all ignored."""
    return (
        'no valid position: every label of this batch is the ignore index '
        f'{batch.ignored}{batch.files(*paths)}. Mend: {mend}'
    )


def count_ids(batch: Batch, num_classes: int | None) -> Counter:
    """Count the labels of a batch: all of them, those that are ignored, and those of each class."""
    labels = batch.labels
    counts: Counter = Counter(all=labels.numel(), ignored=int((~batch.valid).sum()))
    if num_classes is not None:
        inside = labels[(labels >= 0) & (labels < num_classes)]
        counts.update(dict(enumerate(torch.bincount(inside.flatten().long()).tolist())))
    return counts


def tell_ids(counts: Counter, num_classes: int | None) -> list[tuple[str, str]]:
    """Return the counts as rows of a table.

    >>> tell_ids(Counter({'all': 4, 'ignored': 1, 0: 1, 2: 2, 255: 1}), 4)
    [('classes seen', '2 of 4, not [1, 3]'), ('ignored labels', '25.0 %')]
    """
    if num_classes is None:
        return []
    absent = [i for i in range(num_classes) if not counts[i]]
    unseen = f', not {absent[:10]}' if absent else ''
    return [
        ('classes seen', f'{num_classes - len(absent)} of {num_classes}{unseen}'),
        ('ignored labels', f'{100 * counts["ignored"] / max(counts["all"], 1):.1f} %'),
    ]


def tell_chance(metric: str, metrics: Mapping[str, float], classes: int) -> str | None:
    """Return what is to be said of a percentage below one and a half times that of guessing.

    >>> tell_chance('mIoU', dict(mIoU=6.0), 19)
    'is hardly better than chance (mIoU 6.00 of 19 classes)'
    """
    if classes > 1 and metrics.get(metric, 100.0) < 150.0 / classes:
        return f'is hardly better than chance ({metric} {metrics[metric]:.2f} of {classes} classes)'
    return None


def stacked(batch: Batch, field: str) -> Tensor:
    """Return the maps (N, H, W) that every sample holds in a field."""
    return torch.stack([sample.get(field).data.squeeze(0) for sample in batch.data_samples or []])


def with_data(batch: Batch, places: Sequence[int], **data: Any) -> list:
    """Return the samples of a batch, copies with these data at some places.

    Args:
        batch: The batch.
        places: Of the copies.
        **data: Field -> what it holds.
    """
    samples = list(batch.data_samples or [])
    for place in places:
        samples[place] = samples[place].new()  # the fields, no copies of what they hold
        samples[place].set_data(data)
    return samples


def map_size(batch: Batch, field: str) -> tuple[int, ...]:
    """Return the size of the label maps of a batch: that of the first one, else of the images."""
    for sample in batch.data_samples or []:
        if is_labelled(sample) and field in sample:
            return tuple(sample.get(field).data.shape[-2:])
    return tuple(batch.inputs.shape[2:])
