"""CalibrationMetric: NLL, Brier score, ECE and error of a classifier or of a segmentor's pixels."""

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from mmkd.evaluation.functional.calibration import BINS, CalibrationSums, calibration_sums
from mmkd.evaluation.functional.predictions import is_ood, labels_of, logits_of
from mmkd.registry import METRICS
from mmkd.utils.checks import check_choice


@METRICS.register_module()
class CalibrationMetric(BaseMetric):
    """Report ``calibration/NLL`` (nats), ``Brier`` (0 to 2), ``ECE`` (15 bins) and ``error`` (%).

    Averages run over all images, or over all labelled pixels of all images: pixels are summed image
    by image, 49 numbers each, never stored. Probabilities are softmax(logits); samples with
    ``ood=True`` have no right class and are left out. See
    :mod:`mmkd.evaluation.functional.calibration` for the formulas.

    Args:
        outputs: What ``seg_logits`` are: 'logits', or 'scores' of 0 or above, as MaskFormer,
            Mask2Former and SAN give them, of which each class's share is its probability.
        ignore_index: The label that does not count.
        collect_device: Where mmengine gathers the results of several processes.
        prefix: What stands before the names.

    Examples:
        >>> from mmkd.tasks.classification import cls_sample
        >>> metric, truth = CalibrationMetric(), cls_sample(torch.tensor([0])).to_dict()
        >>> metric.process(None, [dict(truth, pred_score=torch.tensor([0.25, 0.75]))])
        >>> {name: round(value, 3) for name, value in metric.evaluate(1).items()}
        {'calibration/NLL': 1.386, 'calibration/Brier': 1.125, 'calibration/ECE': 75.0,
        'calibration/error': 100.0}
    """

    default_prefix = 'calibration'

    def __init__(
        self,
        ignore_index: int = 255,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        outputs: str = 'logits',
    ) -> None:
        check_choice('outputs', outputs, ('logits', 'scores'))
        super().__init__(collect_device, prefix)
        self.ignore_index, self.outputs = ignore_index, outputs

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Sum over each sample: one entry a sample, for mmengine drops what a sampler repeated."""
        for sample in data_samples:
            if is_ood(sample):
                self.results.append(
                    CalibrationSums(0.0, 0.0, 0.0, 0.0, torch.zeros(3, BINS, dtype=torch.float64))
                )
                continue
            logits = logits_of(sample, self.outputs == 'scores')
            labels, mask = (t.to(logits.device) for t in labels_of(sample, self.ignore_index))
            self.results.append(calibration_sums(logits, labels, mask))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Average over everything."""
        sums: CalibrationSums = reduce(add, results)
        return dict(
            NLL=sums.mean_nll, Brier=sums.mean_brier, ECE=100 * sums.ece, error=100 * sums.error
        )
