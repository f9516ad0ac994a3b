"""Metrics on a part of a set, where they would count all of it."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any


def count_what_ran(metrics: Iterable[Any]) -> None:
    """Let metrics count the images that ran alone.

    mmdet's CocoMetric evaluates every image of its annotation file, so that what is on an image
    that did not run counts as not found. Other metrics count what they see, and are left alone.

    Args:
        metrics: Of an evaluator that is used for a part of its set; they are changed.
    """
    for metric in metrics:
        if hasattr(metric, '_coco_api') and hasattr(metric, 'img_ids'):
            metric.compute_metrics = partial(_of_their_images, metric, metric.compute_metrics)


def _of_their_images(metric: Any, compute: Callable[[list], dict], results: list) -> dict:
    metric.img_ids = sorted({truth['img_id'] for truth, _ in results})
    return compute(results)
