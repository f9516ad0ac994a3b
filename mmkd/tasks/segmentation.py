"""Semantic segmentation: a class for each pixel."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmkd.registry import TASKS
from mmkd.structures.batch import Batch, is_labelled
from mmkd.structures.trace import Trace, tensors
from mmkd.tasks.base import NO_LABELS, Task, encode_decode, first_number, head_paths, last_head
from mmkd.tasks.generated import label_map
from mmkd.tasks.labels import (
    check_ids,
    count_ids,
    map_size,
    stacked,
    tell_chance,
    tell_ids,
    tell_ignored,
    with_data,
)
from mmkd.tasks.queries import queries_of

MAP = 'gt_sem_seg'  # where mmseg's data samples hold it
EDGES = 'gt_edge_map'


@TASKS.register_module()
@dataclass(frozen=True)
class Segmentation(Task):
    """Segmentors of mmseg, and what has a ``decode_head`` like them, or a cascade of such heads."""

    kind = 'segmentation'
    field = MAP
    gives_labels = True
    paths = ('seg_map_path', 'img_path')
    class_logits = (4, 'map (N, C, H, W)')

    @classmethod
    def of(cls, model: Any, source: Any = None) -> 'Segmentation | None':
        """Know a model by its ``decode_head``."""
        head = last_head(model)
        if head is None:
            return None
        return cls(first_number(model, head), getattr(head, 'ignore_index', 255))

    def channels(self, model: nn.Module) -> int | None:
        """Return the channels of the head: 1 where two classes are one sigmoid."""
        own = getattr(last_head(model), 'out_channels', None)
        return own if isinstance(own, int) else self.num_classes

    def predict(self, model: Any, inputs: Tensor, samples: list | None = None) -> Any:
        """Run ``encode_decode``, where the model has it."""
        whole = hasattr(model, 'encode_decode')
        return encode_decode(model, inputs) if whole else super().predict(model, inputs, samples)

    def says(self, model: Any, prediction: Trace) -> Iterator[Tensor]:
        """Yield the map that the last head answered with; not one of queries, which no module made.

        A head that refines single points answers with none: then it is the head before it.
        """
        channels = self.channels(model)
        for path in reversed(head_paths(model)):
            answers = [call.output for call in prediction.of(path)]
            if any(queries_of(answer) is not None for answer in answers):
                return
            maps = [made for answer in reversed(answers) for _, made in tensors(answer)]
            for made in maps:
                if made.dim() == 4 and made.shape[1] == channels:
                    yield made
                    return

    def head_path(self, model: Any) -> str | None:
        """Return the path of the last head."""
        return head_paths(model)[-1]

    @classmethod
    def tell_poor(cls, metrics: Mapping[str, float], classes: int) -> str | None:
        """Compare the mIoU with that of guessing."""
        return tell_chance('mIoU', metrics, classes)

    def labels(self, batch: Batch) -> Tensor:
        """Return the label maps (N, H, W)."""
        samples = batch.data_samples or []
        if not samples or not all(self.field in sample for sample in samples):
            raise ValueError(NO_LABELS)
        return stacked(batch, self.field)

    def check(self, batch: Batch, num_classes: int | None) -> bool:
        """Refuse ids that no class has."""
        mend = 'reduce_zero_label, a label_map, or num_classes'
        return check_ids(batch, num_classes, self.paths, mend)

    def tell_void(self, batch: Batch) -> str:
        """Speak of label files and crops."""
        mend = (
            'check ignore_index, reduce_zero_label and the label files; a larger crop or '
            'RandomCrop(cat_max_ratio=0.75) avoids crops of nothing but void'
        )
        return tell_ignored(batch, self.paths, mend)

    def relabel(self, sample: Any, labels: Tensor) -> Any:
        """Return the sample with another label map (H, W)."""
        copy = sample.clone()
        copy.set_data({self.field: PixelData(data=labels[None])})
        return copy

    def void(self, batch: Batch, places: Sequence[int]) -> list:
        """Give label maps on which every pixel is ignored, and maps of edges without any."""
        size = (1, *map_size(batch, self.field))
        ignored = torch.full(size, batch.ignore_index, device=batch.inputs.device)
        data = {self.field: PixelData(data=ignored)}
        known = [one for one in batch.data_samples or [] if is_labelled(one)]
        if all(EDGES in one for one in known):  # which PIDNet's loss reads
            data[EDGES] = PixelData(data=torch.zeros_like(ignored))
        return with_data(batch, places, **data)

    def pad_labels(self, sample: Any, size: tuple[int, ...]) -> Any:
        """Extend the label map: in a test mmseg pads images alone."""
        shape = tuple(sample.metainfo.get('img_shape', size)[:2])
        if shape == size:
            return sample
        labels = sample.get(self.field).data
        # Labels may be larger than the image that the network gets.
        extra = [
            round(total * own / part) - own
            for total, part, own in zip(size, shape, labels.shape[-2:], strict=True)
        ]
        padded = F.pad(labels, (0, extra[1], 0, extra[0]), value=self.ignore_index)
        return self.relabel(sample, padded[0])

    def count(self, batch: Batch) -> Counter:
        """Count the labels."""
        return count_ids(batch, self.num_classes)

    def tell(self, counts: Counter) -> tuple[list[tuple[str, str]], list[str]]:
        """Tell which classes were seen."""
        return tell_ids(counts, self.num_classes), []

    def sample(self, size: tuple[int, int], generator: torch.Generator, masked: bool = True) -> Any:
        """Return blocks of random classes and their edges; where masked, every 20th row is void."""
        return label_map(self.num_classes or 2, size, generator, masked, self.ignore_index)
