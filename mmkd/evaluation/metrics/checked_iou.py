"""mmseg's IoUMetric refuses what it would count wrongly: labels out of range, other classes."""

from collections.abc import Sequence

from mmseg.evaluation.metrics import IoUMetric

from mmkd.tasks.segmentation import MAP

_process = IoUMetric.process


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


IoUMetric.process = process
