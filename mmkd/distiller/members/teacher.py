"""Teachers: frozen models that live outside the module tree."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import broadcast
from mmengine.model import BaseDataPreprocessor, revert_sync_batchnorm
from torch import Tensor, nn

from mmkd.distiller.members.blame import blaming
from mmkd.distiller.members.frozen import frozen_mode, run_frozen
from mmkd.distiller.members.fuse_bn import fuse_bn
from mmkd.distiller.members.member import PRECISIONS, Member
from mmkd.distiller.members.renormalise import Renormalise
from mmkd.distiller.members.run import Run
from mmkd.distiller.taps.changing import changing
from mmkd.distiller.taps.taps import Taps
from mmkd.distiller.taps.tracing import trace
from mmkd.structures.batch import Batch
from mmkd.structures.trace import Trace
from mmkd.tasks.base import task_of
from mmkd.utils.checkpoints import refuse_spoilt, spoilt


class Teacher(Run):
    """One frozen teacher: eval mode, no gradient, in its own precision.

    It runs ``mode='tensor'``; where mmseg cannot, as of heads that read more than features,
    ``encode_decode``.

    Args:
        member: Its description.
        taps: The taps that objectives read, name -> path.
        source: The data preprocessor that makes the batches.
        model: The member's model with its weights, where it is built already.

    Raises:
        FloatingPointError: Weights that are not finite, or are not in the teacher's precision.
        ValueError: Options that this model does not take.
    """

    def __init__(
        self,
        member: Member,
        taps: dict[str, str],
        source: nn.Module,
        model: nn.Module | None = None,
    ) -> None:
        model = revert_sync_batchnorm(member.build() if model is None else model).eval()
        if isinstance(member.model, nn.Module):  # of another one the checkpoint was looked at
            refuse_spoilt(model, member.where)
        _refuse_two_stages(model, member.options, member.where)
        super().__init__(member, model, Taps(model, taps, member.where))
        self.mode = frozen_mode(model)
        self.size, self.task = member.options.get('input_size'), task_of(model)
        if member.options.get('fuse_bn'):
            size = self.size or self.task.size_for(source)
            fuse_bn(self.taps, size, self.forward)
        model.requires_grad_(False)
        # Before the cast: mean and standard deviation would be rounded with the weights.
        self.renormalise = self._find_renormalise(source)
        self.dtype = PRECISIONS[member.options.get('precision', 'fp32')]
        last = member.options.get('channels_last')
        self.layout = torch.channels_last if last else torch.preserve_format
        self._cast()
        if last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.compile: bool | dict[str, Any] = member.options.get('compile', False)
        self._compiled: Callable | None = None

    def __deepcopy__(self, memo: dict) -> 'Teacher':
        """Return itself: a copy of the Distiller (EMA) learns from the same teachers."""
        return self

    def _find_renormalise(self, source: nn.Module) -> Renormalise | None:
        target = getattr(self.model, 'data_preprocessor', None)
        task_of(self.model, source).refuse_other(target, self.where)
        written = self.member.model
        silent = isinstance(written, Mapping) and written.get('data_preprocessor') is None
        if silent and type(target) is BaseDataPreprocessor:
            return None  # mmengine made it of nothing: it would mean pixels that nobody normalised
        return Renormalise(source, target) if isinstance(target, nn.Module) else None

    def _cast(self) -> None:
        before = spoilt(self.model)
        self.model.to(dtype=self.dtype)
        lost = [name for name in spoilt(self.model) if name not in before]
        if lost:
            raise FloatingPointError(
                f'{self.where} has weights beyond the range of '
                f'precision={self.member.options["precision"]!r}: {", ".join(lost[:10])} became '
                "Inf. Mend: precision='bf16', which has the range of float32, or 'fp32'"
            )

    def prepare(self, batch: Batch) -> Tensor:
        """Return the batch's images as this teacher expects them."""
        x = batch.inputs
        if self.renormalise is not None:
            x = self.renormalise(x, batch.data_samples)
        if self.size is not None:
            x = F.interpolate(x, size=tuple(self.size), mode='bilinear', align_corners=False)
        return x.to(dtype=self.dtype, memory_format=self.layout) if x.is_floating_point() else x

    def samples(self, batch: Batch) -> list | None:
        """Return the batch's data samples as they go with the images that this teacher sees."""
        if self.size is None:
            return batch.data_samples
        old = batch.inputs.shape[2:]
        return self.task.resized(batch.data_samples, old, self.size)

    def run(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run once without noise; return tap name -> tensor, and no losses."""
        return self.watch(batch), {}

    def check_noises(self, batch: Batch) -> None:
        """Refuse noises that would change nothing."""
        self.noises.check(self.model, lambda: self.watch(batch, compiled=False), self.where)

    def probe(self, batch: Batch) -> dict[str, Any]:
        """Run once before training; return tap name -> tensor.

        The compiled form is left alone: its hooks must be there when it is first traced.
        """
        with self.noises.around_forward(self.model):
            seen = self.watch(self.noises.on_batch(batch), compiled=False)
        return self.noises.on_taps(seen)

    @torch.no_grad()
    def watch(self, batch: Batch, compiled: bool = True) -> dict[str, Any]:
        """Run once without noise and return tap name -> tensor."""
        x = self.prepare(batch)
        # Under the student's autocast a teacher of its own precision would be cast again, op by op.
        with torch.autocast(x.device.type, enabled=False):
            if compiled and self.compile:
                return self._run_compiled(x, batch)
            with self._blaming(x), self.taps.recording() as seen:
                self.forward(x, self.samples(batch))
        return self.taps.read(seen)

    def trace(self, batch: Batch) -> tuple[Trace, dict[str, Any]]:
        """Run once without noise; return every call of a module, and tap name -> tensor."""
        x = self.prepare(batch)
        with (
            torch.autocast(x.device.type, enabled=False),
            self._blaming(x),
            self.taps.recording() as seen,
        ):
            found = trace(self.model, x, partial(self.forward, x, self.samples(batch)))
        return found, self.taps.read(seen)

    def loss_with(self, tap: str, batch: Batch, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return its own loss of a batch, a tap's tensor being changed on its way.

        Gradients reach what ``change`` reads, and no weight of the teacher.

        Args:
            tap: Name of the tap.
            batch: Images with labels.
            change: Makes the tensor that is read in its stead.

        Raises:
            ValueError: The tap cannot be changed, or the loss does not depend on it.
        """
        x, where = self.prepare(batch), f'tap {tap!r} of {self.where}'
        calls = []

        def counting(value: Tensor) -> Tensor:
            calls.append(1)
            return change(value)

        with (
            torch.autocast(x.device.type, enabled=False),
            blaming(self.where, self.model, 'loss', x),
            changing(self.model, self.taps.paths[tap], counting, where),
        ):
            losses = self.model(x, self.samples(batch), mode='loss')
        value = _total(losses)
        if not calls or not value.requires_grad:
            raise ValueError(
                f"{where}: the teacher's own loss does not depend on it. Mend: a tap that its "
                "head reads, or what it gives, such as 'auto:feature' or 'auto:logits'"
            )
        return value

    def forward(self, x: Tensor, samples: list | None) -> Any:
        """Run the model once on images as it expects them; the taps are what is wanted of it."""
        return run_frozen(self.model, self.mode, x, samples)

    def to(self, device: torch.device) -> None:
        """Move it to a device; its dtype is its own ``precision``."""
        self.model.to(device)

    def broadcast(self) -> None:
        """Give every rank the weights of rank 0: untrained ones differ under ``diff_rank_seed``."""
        for tensor in self.model.state_dict().values():
            broadcast(tensor)

    def _blaming(self, x: Tensor) -> AbstractContextManager[None]:
        return blaming(self.where, self.model, self.mode, x)

    def _run_compiled(self, x: Tensor, batch: Batch) -> dict[str, Any]:
        # Hooks added to a compiled module after its first call never fire: what is compiled is one
        # function whose hooks are there while it is traced, and they stay.
        if self._compiled is None:
            seen, _ = self.taps.hook()

            def run(inputs: Tensor) -> dict[str, list[Tensor]]:
                for reading in seen.values():
                    reading.values.clear()
                self.forward(inputs, None)
                return {name: list(reading.values) for name, reading in seen.items()}

            options = self.compile if isinstance(self.compile, dict) else {}
            self._compiled, self._seen = torch.compile(run, **options), seen
        with self._blaming(x):
            values = self._compiled(x)
        for name, reading in self._seen.items():
            reading.values, reading.versions = values[name], []
        record = self.taps.read(self._seen)
        for reading in self._seen.values():
            reading.values = []
        return record


def _total(losses: Mapping[str, Any]) -> Tensor:
    """Return the sum of losses as mmengine takes it."""
    parts = [value for key, value in losses.items() if 'loss' in key]
    flat = [x for value in parts for x in (value if isinstance(value, list) else [value])]
    return torch.stack([x.float().mean() for x in flat]).sum()


def _refuse_two_stages(model: nn.Module, options: Mapping[str, Any], where: str) -> None:
    """A second stage runs on proposals, float32 boxes that only data samples give."""
    asked = {key: options.get(key) for key in ('precision', 'fuse_bn', 'compile')}
    used = [f'{key}={value!r}' for key, value in asked.items() if value and value != 'fp32']
    if hasattr(model, 'roi_head') and used:
        raise ValueError(
            f'{where}: {", ".join(used)} is not for a {type(model).__name__}, whose second stage '
            'runs on boxes in float32, found for each image. Mend: leave it out, or a teacher of '
            'one stage'
        )
