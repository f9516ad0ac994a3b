"""Depth estimation: metres for each pixel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import PixelData
from torch import Tensor

from mmkd.registry import TASKS
from mmkd.structures.batch import Batch
from mmkd.structures.trace import Trace
from mmkd.tasks.base import Tapped, Task, encode_decode, head_paths, last_head, task_of
from mmkd.tasks.generated import blocks, blocks_of, map_sample
from mmkd.tasks.labels import map_size, stacked, with_data


@TASKS.register_module()
@dataclass(frozen=True)
class Depth(Task):
    """Depth estimators of mmseg: what has a ``decode_head`` with a ``max_depth``.

    Args:
        num_classes: None.
        ignore_index: Of no meaning: depth is unknown where it is not above 0.
        min_depth: The smallest depth that the model knows, in its own unit.
        max_depth: The largest one.
    """

    min_depth: float = 0.0
    max_depth: float = 1.0

    kind = 'depth'
    field = 'gt_depth_map'
    holding = 'depth'
    paths = ('depth_map_path', 'img_path')

    @classmethod
    def of(cls, model: Any, source: Any = None) -> 'Depth | None':
        """Know a model by the ``max_depth`` of its head."""
        head = last_head(model)
        if not hasattr(head, 'max_depth'):
            return None
        return cls(min_depth=getattr(head, 'min_depth', 0.0), max_depth=float(head.max_depth))

    @classmethod
    def check_places(cls, objective: str, tapped: Tapped, by_channel: bool) -> None:
        """Refuse bins of other ranges: bin k is another depth for each."""
        bins = {}
        for name, (model, path) in tapped.items():
            task = task_of(model)
            if path.endswith('.conv_seg') and isinstance(task, cls):
                bins[name] = task.min_depth, task.max_depth
        if by_channel and len(set(bins.values())) > 1:
            raise ValueError(
                f'objective {objective!r} compares bins of depth of other ranges: {bins}, so bin k '
                'is another depth for each. Mend: the same min_depth and max_depth, or tap metres '
                '(decode_head.depth)'
            )

    def predict(self, model: Any, inputs: Tensor, samples: list | None = None) -> Any:
        """Run ``encode_decode``, where the model has it."""
        whole = hasattr(model, 'encode_decode')
        return encode_decode(model, inputs) if whole else super().predict(model, inputs, samples)

    def says(self, model: Any, prediction: Trace) -> Iterator[Tensor]:
        """Yield what its ``conv_seg`` made: bins of depth, or the map before its unit."""
        for call in prediction.of(f'{head_paths(model)[-1]}.conv_seg'):
            yield call.output

    def measures(self, model: Any, prediction: Trace) -> Iterator[Tensor]:
        """Yield the map in the model's own unit, metres as a rule."""
        for call in prediction.of(head_paths(model)[-1]):
            yield call.output

    def head_path(self, model: Any) -> str | None:
        """Return the path of the head."""
        return head_paths(model)[-1]

    def valid(self, batch: Batch) -> Tensor:
        """Return where depth is known, (N, H, W)."""
        if not all(self.field in sample for sample in batch.data_samples or []):
            return super().valid(batch)
        depth = stacked(batch, self.field)
        return torch.isfinite(depth) & (depth > 0)

    def check(self, batch: Batch, num_classes: int | None) -> bool:
        """Return whether any depth is known; of its range the head judges."""
        return bool(batch.valid.any())

    def tell_void(self, batch: Batch) -> str:
        """Speak of the depth files."""
        return (
            f'no valid position: no depth of this batch is known{batch.files(*self.paths)}. Mend: '
            'look at the depth files, and at depth_rescale_factor'
        )

    def void(self, batch: Batch, places: Sequence[int]) -> list:
        """Give depth maps of which nothing is known."""
        unknown = batch.inputs.new_zeros((1, *map_size(batch, self.field)), dtype=torch.float32)
        return with_data(batch, places, **{self.field: PixelData(data=unknown)})

    def sample(self, size: tuple[int, int], generator: torch.Generator, masked: bool = True) -> Any:
        """Return blocks of depth inside the range; where masked, every 20th row is unknown."""
        share = 0.1 + 0.8 * torch.rand(blocks_of(size), generator=generator)
        depth = blocks(self.min_depth + (self.max_depth - self.min_depth) * share, size)
        if masked:
            depth[:, 19::20] = 0
        return map_sample(self.field, depth)
