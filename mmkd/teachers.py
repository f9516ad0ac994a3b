"""Teachers: frozen models that live outside the module tree."""
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import broadcast
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from mmkd.batch import Batch
from mmkd.generated import default_size
from mmkd.member import PRECISIONS, Member, Renormalise
from mmkd.noise.base import QUIET, Noises
from mmkd.taps import Taps


class Teacher:
    """One frozen teacher: eval mode, no gradient, ``mode='tensor'``, in its own precision.

    Args:
        member: Its description.
        taps: The taps that objectives read, name -> path.
        source: The data preprocessor that makes the batches.
    """

    def __init__(self, member: Member, taps: dict[str, str], source: nn.Module) -> None:
        options = member.options
        self.member = member
        self.model = revert_sync_batchnorm(member.build()).eval()
        _refuse_two_stages(self.model, options, member.where)
        self.taps = Taps(self.model, taps, member.where)
        self.size = options.get('input_size')
        if options.get('fuse_bn'):
            _fuse(self.taps, self.size or getattr(source, 'size', None) or default_size(self.model))
        self.model.requires_grad_(False)
        # Before the cast: mean and standard deviation would be rounded with the weights.
        target = getattr(self.model, 'data_preprocessor', None)
        refuse: Any = getattr(source, 'refuse_other', None)  # of sentences
        if refuse is not None:
            refuse(target, member.where)
        self.renormalise = Renormalise(source, target) if isinstance(target, nn.Module) else None
        self.dtype = PRECISIONS[options.get('precision', 'fp32')]
        self.layout = torch.channels_last if options.get('channels_last') else torch.preserve_format
        self.model.to(dtype=self.dtype)
        if options.get('channels_last'):
            self.model.to(memory_format=torch.channels_last)
        self._compiled: Callable | None = None

    def prepare(self, batch: Batch) -> Tensor:
        """Return the batch's images as this teacher expects them."""
        x = batch.inputs if self.renormalise is None else self.renormalise(batch.inputs, batch.data_samples)
        if self.size is not None:
            x = F.interpolate(x, size=tuple(self.size), mode='bilinear', align_corners=False)
        return x.to(dtype=self.dtype, memory_format=self.layout) if x.is_floating_point() else x

    @torch.no_grad()
    def observe(self, batch: Batch, compiled: bool = True) -> dict[str, Any]:
        """Run once and return tap name -> tensor."""
        x = self.prepare(batch)
        # Under the student's autocast a teacher of its own precision would be cast again, op by op.
        with torch.autocast(x.device.type, enabled=False):
            if compiled and self.member.options.get('compile'):
                return self._run_compiled(x, batch)
            with self.taps.recording() as seen:
                self.model(x, batch.data_samples, mode='tensor')
        return self.taps.read(seen)

    def _run_compiled(self, x: Tensor, batch: Batch) -> dict[str, Any]:
        # Hooks added to a compiled module after its first call never fire: what is compiled is one function
        # whose hooks are there while it is traced, and they stay.
        if self._compiled is None:
            seen, _ = self.taps.hook()

            def run(inputs: Tensor) -> dict[str, list[Tensor]]:
                for reading in seen.values():
                    reading.values.clear()
                self.model(inputs, None, mode='tensor')
                return {name: list(reading.values) for name, reading in seen.items()}

            options = self.member.options['compile']
            self._compiled, self._seen = torch.compile(run, **(options if isinstance(options, dict) else {})), seen
        values = self._compiled(x)
        for name, reading in self._seen.items():
            reading.values, reading.versions = values[name], []
        record = self.taps.read(self._seen)
        for reading in self._seen.values():
            reading.values = []
        return record


class Teachers(Mapping):
    """Name -> teacher model; ``observe`` runs them all.

    Not a module on purpose: teachers are in no state dict, optimizer, EMA copy or DDP bucket, and
    ``train()``, ``init_weights()`` and dtype casts of the Distiller do not reach them.
    """

    def __init__(self, teachers: dict[str, Teacher]) -> None:
        self.runs = teachers

    def __getitem__(self, name: str) -> nn.Module:
        return self.runs[name].model

    def __iter__(self) -> Iterator[str]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __deepcopy__(self, memo: dict) -> 'Teachers':
        return self

    def to(self, device: torch.device) -> None:
        """Move every teacher to ``device``; its dtype is its own ``precision``."""
        for run in self.runs.values():
            run.model.to(device)

    def broadcast(self) -> None:
        """Give every rank the teachers of rank 0: untrained ones differ under ``diff_rank_seed``."""
        for run in self.runs.values():
            for tensor in run.model.state_dict().values():
                broadcast(tensor)

    def observe(self, batch: Batch, compiled: bool = True,
                noises: Noises = QUIET) -> Iterator[tuple[str, dict[str, Any]]]:
        """Run one teacher after the other; yield each one's name and its tap name -> tensor."""
        for name, run in self.runs.items():
            with noises.awake(name, run.model):
                seen = run.observe(batch, compiled)
            yield name, noises.hear(name, seen)


def _refuse_two_stages(model: nn.Module, options: Mapping[str, Any], where: str) -> None:
    """A second stage runs on proposals, float32 boxes that only data samples give."""
    asked = {key: options.get(key) for key in ('precision', 'fuse_bn', 'compile')}
    used = [f'{key}={value!r}' for key, value in asked.items() if value and value != 'fp32']
    if hasattr(model, 'roi_head') and used:
        raise ValueError(f'{where}: {", ".join(used)} is not for a {type(model).__name__}, whose second stage runs on '
                         "boxes in float32, found for each image. Mend: leave it out, or a teacher of one stage")


@torch.no_grad()
def _fuse(taps: Taps, size: tuple[int, int]) -> None:
    """Fold BatchNorm into the convolutions before it; refuse taps whose meaning that would change."""
    from mmcv.cnn.utils import fuse_conv_bn

    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    before, parameters = _look(taps, images), dict(taps.model.named_parameters())
    fuse_conv_bn(taps.model)
    after = dict(taps.model.named_parameters())
    changed = {n.rsplit('.', 1)[0] for n in parameters.keys() | after.keys() if parameters.get(n) is not after.get(n)}
    for name, path in taps.paths.items():
        if path.module in changed:
            raise ValueError(f'tap {name!r} of {taps.where} ({path.text!r}) reads a convolution or norm that '
                             'fuse_bn=True folds together, so it would give another tensor. Mend: tap the whole block, '
                             'or fuse_bn=False')
    # mmcv goes by the order in which modules were registered, which need not be the order in which they run.
    for (name, old), new in zip(before.items(), _look(taps, images).values(), strict=True):
        if (new - old).abs().max() > 1e-2 * old.abs().max():
            raise ValueError(f'fuse_bn=True changes tap {name!r} of {taps.where}: a norm runs before its convolution '
                             "or apart from it (ConvModule(order=('norm', …))), so it cannot be folded. Mend: "
                             'fuse_bn=False')


def _look(taps: Taps, images: Tensor) -> dict[str, Tensor]:
    with taps.recording() as seen:
        taps.model(images, None, mode='tensor')
    return {name: torch.cat([v.flatten() for v in (value if isinstance(value, list) else [value])])
            for name, value in taps.read(seen).items()}
