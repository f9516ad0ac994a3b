"""Models of which nothing is known: they are asked for nothing that could be wrong."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.registry import TASKS
from mmkd.structures.batch import Batch
from mmkd.tasks.base import NO_LABELS, Task
from mmkd.tasks.generated import label_map


@TASKS.register_module()
class Unknown(Task):
    """No task, or one that mmkd does not know; the last one asked, it takes every model.

    Its models are never run on generated labels before a training. The doctor and the benchmark,
    which must take a step, try label maps of two classes.
    """

    @classmethod
    def of(cls, model: Any, source: Any = None) -> 'Unknown':
        """Take every model."""
        return cls()

    @property
    def known(self) -> bool:
        """Nothing is known."""
        return False

    @classmethod
    def holds(cls, samples: list | None) -> bool:
        """Take all samples, labelled or not."""
        return True

    def labels(self, batch: Batch) -> Tensor:
        """Refuse to name any."""
        raise ValueError(NO_LABELS)

    def void(self, batch: Batch, places: Sequence[int]) -> list:
        """Leave samples as they are."""
        return list(batch.data_samples or [])

    def sample(self, size: tuple[int, int], generator: torch.Generator, masked: bool = True) -> Any:
        """Return a label map of two classes."""
        return label_map(2, size, generator, masked)
