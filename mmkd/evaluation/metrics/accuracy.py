"""Accuracy of classifiers in percent."""

from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from mmkd.registry import METRICS
from mmkd.structures.batch import IGNORED_IMAGE
from mmkd.tasks.classification import LABEL
from mmkd.utils.checks import check_count


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Percentage of images whose class is among the k highest scores, as ``accuracy/top<k>``.

    Samples marked ``ood``, and those with the label −100, do not count: they have no right answer.

    Args:
        topk: Every k to report.
        collect_device: Where ranks gather results, 'cpu' or 'gpu'.
        prefix: First part of the names, by default 'accuracy'.

    Raises:
        ValueError: k is no whole number above 0, or more than there are classes; no sample counts.
        KeyError: A sample without ``pred_score`` or without its label.

    >>> from mmkd.tasks.classification import cls_sample
    >>> metric, truth = Accuracy(topk=(1, 2)), cls_sample(torch.tensor([1])).to_dict()
    >>> scores = torch.tensor([[.5, .3, .2], [.1, .3, .6]])
    >>> metric.process({}, [dict(truth, pred_score=own) for own in scores])
    >>> metric.evaluate(2)
    {'accuracy/top1': 0.0, 'accuracy/top2': 100.0}
    """

    default_prefix = 'accuracy'

    def __init__(
        self, topk: Sequence[int] = (1,), collect_device: str = 'cpu', prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        for k in topk:
            check_count('topk', k, 1)
        self.topk = tuple(topk)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Note of every sample how many classes come before its own; None where none counts."""
        counts = [_counts(sample) for sample in data_samples]
        counted = list(compress(data_samples, counts))
        for sample in counted:
            for key in ('pred_score', LABEL):
                if key not in sample:
                    raise KeyError(
                        f'Accuracy needs {key!r} in every data sample, which has {sorted(sample)}. '
                        'Mend: a labelled data set, a classifier that predicts, or ood=True in the '
                        'metainfo'
                    )
        ahead = iter(self._ahead(counted) if counted else [])
        # An entry a sample, in order: what the ranks gather is cut to the size of the data set.
        self.results += [next(ahead) if counting else None for counting in counts]

    def _ahead(self, samples: list[dict]) -> list[int]:
        scores = torch.stack([sample['pred_score'] for sample in samples])
        labels = torch.stack([torch.as_tensor(sample[LABEL]).view(1) for sample in samples]).to(
            scores.device
        )
        classes = scores.shape[1]
        if max(self.topk) > classes:
            raise ValueError(
                f'topk={self.topk} of {classes} classes. Mend: topk of {classes} at most'
            )
        own = scores.gather(1, labels)
        # Among equal scores the lower class comes first: a constant prediction is right for one
        # class, not for all.
        earlier = torch.arange(classes, device=scores.device) < labels
        ahead = ((scores > own) | (scores == own) & earlier).sum(1)
        return torch.where(scores.isnan().any(1), classes, ahead).tolist()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the percentages over all samples that count."""
        ranks = torch.tensor([rank for rank in results if rank is not None])
        if not len(ranks):
            raise ValueError(
                f'Accuracy has no sample with a label (of {len(results)}). Mend: evaluate a '
                'labelled set'
            )
        return {f'top{k}': 100.0 * (ranks < k).double().mean().item() for k in self.topk}


def _counts(sample: dict) -> bool:
    """Return whether a sample has a right answer; one without a label at all is refused later."""
    ignored = LABEL in sample and int(torch.as_tensor(sample[LABEL]).view(-1)[0]) == IGNORED_IMAGE
    return not sample.get('ood') and not ignored
