"""Which metrics a validation reports, found by one batch."""

import copy
from contextlib import suppress
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger

from mmkd.utils.checks import nearest


@torch.no_grad()
def reported_metrics(model: Any, dataloader: Any, evaluator: Evaluator) -> list[str]:
    """Return the names of the metrics that a validation will report.

    Nothing, where one batch is too little to know.
    The evaluator is copied, no random number is drawn, and nothing is printed; the model is left in
    eval mode.

    Args:
        model: Has mmengine's ``val_step``.
        dataloader: Of the validation.
        evaluator: Of the validation.
    """
    evaluator = copy.deepcopy(evaluator)
    evaluator.dataset_meta = getattr(dataloader.dataset, 'metainfo', None)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    logger = MMLogger.get_current_instance()
    quiet, logger.disabled = logger.disabled, True  # metrics print tables
    try:
        with torch.random.fork_rng(devices):
            batch = next(iter(dataloader))
            model.eval()
            outputs = model.val_step(batch)
        evaluator.process(data_samples=outputs, data_batch=batch)
        found = [_names(evaluator) if is_main_process() else []]
    finally:
        logger.disabled = quiet
    broadcast_object_list(found)
    return found[0]


def _names(evaluator: Evaluator) -> list[str]:
    """Return what the metrics make of their results, without a word to other ranks.

    ``evaluate`` collects from all ranks and sends them its result: where it fails on one, the
    others wait for ever.
    """
    names = []
    with suppress(Exception):  # a metric may need the whole set: the first validation will say
        for metric in evaluator.metrics:
            found = metric.compute_metrics(metric.results)
            names += [f'{metric.prefix}/{name}' if metric.prefix else name for name in found]
        return names
    return []


def check_best_metrics(wanted: list[str], found: list[str]) -> None:
    """Refuse a best checkpoint by a metric that the validation does not report.

    Args:
        wanted: The metrics of ``save_best``; 'auto' is whatever comes first.
        found: What the validation reports; nothing where that is not known.

    Raises:
        KeyError: Names the metric, the nearest one, and all there are.
    """
    for key in wanted:
        if found and key != 'auto' and key not in found:
            raise KeyError(
                f'the checkpoint hook keeps the best by save_best={key!r}, which the validation '
                f'does not report{nearest(key, found)} (it reports {sorted(found)})'
            )
