"""mmseg's IoUMetric refuses what it would count wrongly, and remembers the IoU of each class.

Refused are labels out of range, and other classes than the data set's.
"""

from collections.abc import Sequence
from math import isfinite

from mmseg.evaluation.metrics import IoUMetric

from mmkd.tasks.segmentation import MAP

_process, _compute = IoUMetric.process, IoUMetric.compute_metrics


def check_samples(samples: Sequence[dict], num_classes: int, ignore_index: int) -> None:
    """Refuse samples that a metric of ``num_classes`` classes leaves out or counts as others.

    Args:
        samples: As an evaluator hands them over; those without labels are left alone.
        num_classes: Of the data set.
        ignore_index: The id that does not count.

    Raises:
        ValueError: A label out of range; logits of another number of classes.
    """
    for sample in samples:
        scores = (sample.get('seg_logits') or {}).get('data')
        if scores is not None and scores.shape[0] not in (1, num_classes):  # 1: a foreground alone
            raise ValueError(
                f'the model predicts {scores.shape[0]} classes, the data set of the evaluation has '
                f'{num_classes}. Mend: num_classes of every head, or metainfo=dict(classes=…) of '
                'the data'
            )
        if MAP not in sample:
            continue
        labels = sample[MAP]['data']
        wrong = labels[((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)]
        if wrong.numel():
            raise ValueError(
                f'labels hold the ids {wrong.unique().tolist()[:10]}, but the data set of the '
                f'evaluation has {num_classes} classes (0 … {num_classes - 1}; {ignore_index} is '
                f'ignored) (from {sample.get("seg_map_path", "a sample")}). Mend: '
                'reduce_zero_label, a label_map, or the classes of the data set'
            )


def process(metric: IoUMetric, data_batch: dict, data_samples: Sequence[dict]) -> None:
    """Check the samples, then count them."""
    if not metric.format_only:
        check_samples(data_samples, len(metric.dataset_meta['classes']), metric.ignore_index)
    _process(metric, data_batch, data_samples)


def class_ious(results: Sequence[tuple], classes: Sequence[str]) -> dict[str, float | None]:
    """Return the IoU of each class in per cent, None of a class that is in no label or prediction.

    Args:
        results: As IoUMetric keeps them: intersection and union of every image come first.
        classes: Their names.

    >>> from torch import tensor
    >>> class_ious([(tensor([1., 0.]), tensor([4., 0.]))] * 2, 'ab')
    {'a': 25.0, 'b': None}
    """
    intersections, unions, *_ = zip(*results, strict=True)
    ious = (100 * sum(intersections) / sum(unions)).tolist()
    found = zip(classes, ious, strict=True)
    return {name: round(iou, 2) if isfinite(iou) else None for name, iou in found}


def compute_metrics(metric: IoUMetric, results: list) -> dict[str, float]:
    """Return mmseg's means; what they are means of stays in ``metric.per_class``."""
    found = _compute(metric, results)
    if not metric.format_only:
        metric.per_class = dict(IoU=class_ious(results, metric.dataset_meta['classes']))
        metric.per_class_of = tuple(
            f'{metric.prefix}/{name}' if metric.prefix else name for name in found
        )
    return found


IoUMetric.process, IoUMetric.compute_metrics = process, compute_metrics
