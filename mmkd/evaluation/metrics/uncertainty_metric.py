"""UncertaintyMetric: does uncertainty find mistakes (PRR) and inputs from elsewhere (AUROC)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmkd.evaluation.functional.predictions import is_ood, labels_of, logits_of
from mmkd.evaluation.functional.rejection import ood_auroc, prediction_rejection_ratio
from mmkd.evaluation.functional.uncertainty import (
    check_outputs,
    concentration,
    dirichlet_uncertainty,
    entropy,
)
from mmkd.registry import METRICS
from mmkd.utils.checks import check_count

OF_SHARES = ('softmax', 'scores')


@METRICS.register_module()
class UncertaintyMetric(BaseMetric):
    r"""Report ``uncertainty/PRR`` and, where samples have ``ood=True``, two AUROC, in %.

    These are ``uncertainty/AUROC_total`` and ``uncertainty/AUROC_knowledge``. PRR asks whether
    total uncertainty ranks wrong predictions first, over images or, for segmentors, over pixels;
    the prediction is the most likely class of softmax(logits). AUROC asks whether uncertainty tells
    out-of-distribution images from the others, image by image: a segmentor's is the mean over its
    pixels. Out-of-distribution samples need no labels and count in the AUROC alone. See
    :mod:`mmkd.evaluation.functional.rejection` and :mod:`mmkd.evaluation.functional.uncertainty`.

    Args:
        outputs: How the network's output is read. 'dirichlet': α = exp(logits) + offset. 'softmax':
            total uncertainty only, the entropy. 'scores': the same of what MaskFormer, Mask2Former
            and SAN give, of which each class's share is its probability. 'ensemble': the fields
            ``total_uncertainty`` and ``knowledge_uncertainty`` that mmkd.Ensemble writes.
        offset: Added to every α, for 'dirichlet' (1 for a network trained on the proxy target).
        positions_per_image: So many labelled pixels of an image are looked at, drawn with a fixed
            seed; all of them where there are no more. Both the PRR's pixels and the image mean are
            of these.
        ignore_index: The label that does not count.
        collect_device: Where mmengine gathers the results of several processes.
        prefix: What stands before the names.

    Raises:
        ValueError: Unknown options; every sample is out of distribution.
        KeyError: A sample lacks its labels or an ensemble's fields.

    Examples:
        >>> from mmkd.tasks.classification import cls_sample
        >>> metric, truth = UncertaintyMetric(), [cls_sample(torch.tensor([i])) for i in (0, 1)]
        >>> logits = torch.tensor([[9., 0.], [5., 0.], [-5., -5.]])  # the last: little evidence
        >>> samples = [dict(truth[i].to_dict(), pred_logits=logits[i]) for i in (0, 1)]
        >>> metric.process(None, [*samples, dict(pred_logits=logits[2], ood=True)])
        >>> metric.evaluate(3)
        {'uncertainty/PRR': 100.0, 'uncertainty/AUROC_total': 100.0, 'uncertainty/AUROC_knowledge':
        100.0}
    """

    default_prefix = 'uncertainty'

    def __init__(
        self,
        outputs: str = 'dirichlet',
        offset: float = 0.0,
        positions_per_image: int = 10_000,
        ignore_index: int = 255,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        check_outputs(outputs, ('dirichlet', 'softmax', 'scores', 'ensemble'), offset)
        check_count('positions_per_image', positions_per_image, 1)
        super().__init__(collect_device, prefix)
        self.outputs, self.offset, self.positions = outputs, offset, positions_per_image
        self.ignore_index = ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep a bounded number of positions of each sample; one entry a sample."""
        for sample in data_samples:
            self.results.append(self._read(sample))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Rank everything."""
        ood = [result['ood'] for result in results]
        inside = [result for result in results if not result['ood'] and len(result['total'])]
        # A map without a labelled pixel has no mean, and a rank neither.
        seen = [result for result in results if len(result['total'])]
        metrics = {}
        if any(ood):
            marks = [result['ood'] for result in seen]
            for name in ('total',) if self.outputs in OF_SHARES else ('total', 'knowledge'):
                metrics[f'AUROC_{name}'] = 100 * ood_auroc(
                    [result[name].mean() for result in seen], marks
                )
        if not inside:
            raise ValueError(
                'no labelled prediction: every label is ignored. Mend: check ignore_index and the '
                'data set'
            )
        total = np.concatenate([result['total'] for result in inside])
        wrong = np.concatenate([result['wrong'] for result in inside])
        return dict(PRR=prediction_rejection_ratio(total, wrong), **metrics)

    def _read(self, sample: dict) -> dict[str, Any]:
        logits, ood = logits_of(sample, self.outputs == 'scores'), is_ood(sample)
        labels, mask = None, torch.ones_like(logits[:, 0], dtype=torch.bool)
        if not ood:
            labels, mask = (t.to(logits.device) for t in labels_of(sample, self.ignore_index))
        index = mask.view(-1).nonzero().squeeze(1)
        if len(index) > self.positions:
            # The same draw whatever the order of images, processes and batches.
            generator = torch.Generator().manual_seed(0)
            index = index[
                torch.randperm(len(index), generator=generator)[: self.positions].to(index.device)
            ]
        flat = logits[0].flatten(1).T[index] if logits.dim() > 2 else logits[index]  # (P, C)
        result = {
            name: value.cpu().numpy() for name, value in self._measure(sample, flat, index).items()
        }
        if labels is not None:
            result['wrong'] = (flat.argmax(1) != labels.reshape(-1)[index]).cpu().numpy()
        return dict(result, ood=ood)

    def _measure(self, sample: dict, logits: Tensor, index: Tensor) -> dict[str, Tensor]:
        if self.outputs in OF_SHARES:
            return dict(total=entropy(F.softmax(logits.double(), 1)))
        if self.outputs == 'dirichlet':
            both = dirichlet_uncertainty(concentration(logits, self.offset))
            return {name: both[name] for name in ('total', 'knowledge')}
        found = {}
        for name in ('total', 'knowledge'):
            field = sample.get(f'{name}_uncertainty')
            if field is None:
                raise KeyError(
                    f"outputs='ensemble' reads '{name}_uncertainty', which this prediction lacks "
                    f'(it has {sorted(sample)}). Mend: test an mmkd.Ensemble, or '
                    "outputs='dirichlet' or 'softmax' for a single network"
                )
            found[name] = (field['data'] if isinstance(field, dict) else field).reshape(-1)[index]
        return found
