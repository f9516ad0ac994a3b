"""Where rare classes are."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd.losses.functional import labelled, sum_over_ranks
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.utils.checks import check_positive
from mmkd.where.base import Where, labels_at

MANY = 2**16  # classes of a model that does not say: no label map has more


@MODELS.register_module()
class ClassBalance(Where):
    r"""The inverse frequency of a position's label, of mean 1 over the labelled positions.

    .. math:: w_i = \frac{f_{y_i}^{-a}}{\frac{1}{|V|} \sum_{j \in V} f_{y_j}^{-a}}

    with the frequencies f of the labels of the batch, at the size of the student's map and under
    distributed training of all ranks, or with given ones. Of the batch's own, a = 1, every class
    that is there weighs the same in sum. A position without a label has the weight 1: what it
    counts says a mask.

    Args:
        frequencies: Of each class, in any unit (pixels, shares); None: those of the batch.
        power: a; 0.5 is milder.
        reads: Of no use to it.

    Raises:
        ValueError: A power or a frequency that is not above 0, fewer than two frequencies.

    Examples:
        >>> from types import SimpleNamespace
        >>> labels = torch.tensor([[[0, 0, 0, 1, 255]]])
        >>> batch = SimpleNamespace(labels=labels, valid=labels != 255, ignored=255, task=None)
        >>> ClassBalance()(batch, torch.zeros(1, 2, 1, 5))  # 4 / (2 · 3), 4 / (2 · 1)
        tensor([[[0.6667, 0.6667, 0.6667, 2.0000, 1.0000]]])
    """

    labels = True
    frequencies: Tensor | None

    def __init__(
        self,
        frequencies: Sequence[float] | None = None,
        power: float = 1.0,
        reads: dict[str, str] | None = None,
    ) -> None:
        super().__init__(reads)
        check_positive('power of ClassBalance', power)
        self.power = power
        given = None if frequencies is None else _checked(frequencies)
        self.register_buffer('frequencies', given, persistent=False)

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        r"""Return the weights (N, \*S) at the size of the student's map."""
        labels, valid = labels_at(batch, student)
        classes = self._classes(batch)
        valid = labelled(labels, classes, batch.ignored, valid)
        index = labels.where(valid, 0).flatten().long()
        counts = student.new_zeros(classes, dtype=torch.float32)
        # of one process and of many the same: each class counts over the joined batch
        counts = sum_over_ranks(counts.index_add(0, index, valid.flatten().float()))
        frequencies = counts if self.frequencies is None else self.frequencies
        each = frequencies.where(frequencies > 0, 1.0).pow(-self.power)
        mean = (each * counts).sum() / counts.sum().clamp(min=1)
        each = each / mean.where(mean > 0, mean.new_ones(()))
        return each[index].view(labels.shape).where(valid, 1.0)

    def _classes(self, batch: Batch) -> int:
        """Return a number of classes that is the same on every rank."""
        if self.frequencies is not None:
            return len(self.frequencies)
        return getattr(batch.task, 'num_classes', None) or MANY


def _checked(frequencies: Sequence[float]) -> Tensor:
    """Return frequencies as shares; refuse what is none."""
    given = list(frequencies)
    if len(given) < 2 or not all(math.isfinite(one) and one > 0 for one in given):
        raise ValueError(
            'frequencies of ClassBalance must be numbers above 0, one for each of two classes or '
            f'more, got {given!r:.80}. Mend: a small one for a class that is never there'
        )
    shares = torch.tensor(given, dtype=torch.float64)
    return (shares / shares.sum()).float()
