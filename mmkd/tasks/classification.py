"""Classification: a class for each image."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmkd.registry import TASKS
from mmkd.structures.batch import IGNORED_IMAGE, Batch
from mmkd.tasks.base import NO_LABELS, Own, Task, first_number
from mmkd.tasks.labels import (
    check_ids,
    count_ids,
    tell_chance,
    tell_ids,
    tell_ignored,
    with_data,
)

LABEL = 'gt_label'  # where mmpretrain's data samples hold it


@TASKS.register_module()
@dataclass(frozen=True)
class Classification(Task):
    """Classifiers of mmpretrain or mmkd, and what has a ``head`` or ``num_classes`` like them."""

    kind = 'classification'
    field = LABEL
    gives_labels = True
    paths = ('seg_map_path', 'img_path')
    class_logits = (2, 'vector (N, C)')

    @classmethod
    def of(cls: type[Own], model: Any, source: Any = None) -> Own | None:
        """Know a model by its ``head``, where mmpretrain keeps the classes, or its own number."""
        if hasattr(model, 'head') or hasattr(model, 'num_classes'):
            return cls(first_number(model, getattr(model, 'head', None)))
        return None

    @property
    def known(self) -> bool:
        """Without a number of classes, no more is known than that something is called head."""
        return self.num_classes is not None

    @classmethod
    def tell_poor(cls, metrics: Mapping[str, float], classes: int) -> str | None:
        """Compare the accuracy with that of guessing."""
        return tell_chance('accuracy/top1', metrics, classes)

    def labels(self, batch: Batch) -> Tensor:
        """Return the labels (N,)."""
        samples, device = batch.data_samples or [], batch.inputs.device
        if not samples or not all(self.field in sample for sample in samples):
            raise ValueError(NO_LABELS)
        return torch.cat(
            [torch.as_tensor(s.get(self.field), device=device).view(1) for s in samples]
        )

    def check(self, batch: Batch, num_classes: int | None) -> bool:
        """Refuse labels that no class has."""
        return check_ids(batch, num_classes, self.paths, 'num_classes, or the data set')

    def tell_void(self, batch: Batch) -> str:
        """Speak of the data set."""
        return tell_ignored(batch, self.paths, 'a data set with labels')

    def relabel(self, sample: Any, labels: Tensor) -> Any:
        """Return the sample with another label (0-d)."""
        copy = sample.clone()
        copy.set_data({self.field: labels.view(1)})
        return copy

    def void(self, batch: Batch, places: Sequence[int]) -> list:
        """Give the label of an image that does not count."""
        ignored = torch.tensor([IGNORED_IMAGE], device=batch.inputs.device)
        return with_data(batch, places, **{self.field: ignored})

    def count(self, batch: Batch) -> Counter:
        """Count the labels."""
        return count_ids(batch, self.num_classes)

    def tell(self, counts: Counter) -> tuple[list[tuple[str, str]], list[str]]:
        """Tell which classes were seen."""
        return tell_ids(counts, self.num_classes), []

    def sample(
        self, size: tuple[int, int], generator: torch.Generator, masked: bool = True
    ) -> BaseDataElement:
        """Return a random class."""
        return cls_sample(torch.randint(0, self.num_classes or 2, (1,), generator=generator))


def cls_sample(label: Tensor) -> BaseDataElement:
    """Return the data sample of a class label (1,), as a pipeline of classification packs it."""
    return BaseDataElement(**{LABEL: label})
