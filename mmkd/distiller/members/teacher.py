"""Teachers: frozen models that live outside the module tree."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import broadcast
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from mmkd.distiller.members.blame import blaming
from mmkd.distiller.members.member import PRECISIONS, Member, Renormalise
from mmkd.distiller.taps.taps import Taps
from mmkd.noise.base import QUIET, Noises
from mmkd.structures.batch import Batch
from mmkd.tasks.generated import default_size
from mmkd.utils.checkpoints import refuse_spoilt, spoilt

Forward = Callable[[Tensor, list | None], Any]  # of images, as a teacher expects them


class Teacher:
    """One frozen teacher: eval mode, no gradient, in its own precision.

    It runs ``mode='tensor'``; where mmseg cannot, as of heads that read more than features,
    ``encode_decode``.

    Args:
        member: Its description.
        taps: The taps that objectives read, name -> path.
        source: The data preprocessor that makes the batches.

    Raises:
        FloatingPointError: Weights that are not finite, or are not in the teacher's precision.
        ValueError: Options that this model does not take.
    """

    def __init__(self, member: Member, taps: dict[str, str], source: nn.Module) -> None:
        options = member.options
        self.member = member
        self.model = revert_sync_batchnorm(member.build()).eval()
        if isinstance(member.model, nn.Module):  # of another one the checkpoint was looked at
            refuse_spoilt(self.model, member.where)
        head = getattr(self.model, 'decode_head', None)
        predicts = head is not None and not _takes_features(head)
        self.mode = 'encode_decode' if predicts else 'tensor'
        _refuse_two_stages(self.model, options, member.where)
        self.taps = Taps(self.model, taps, member.where)
        self.size = options.get('input_size')
        if options.get('fuse_bn'):
            size = self.size or getattr(source, 'size', None) or default_size(self.model)
            _fuse(self.taps, size, self.forward)
        self.model.requires_grad_(False)
        # Before the cast: mean and standard deviation would be rounded with the weights.
        target = getattr(self.model, 'data_preprocessor', None)
        refuse: Any = getattr(source, 'refuse_other', None)  # of sentences
        if refuse is not None:
            refuse(target, member.where)
        self.renormalise = Renormalise(source, target) if isinstance(target, nn.Module) else None
        self.dtype = PRECISIONS[options.get('precision', 'fp32')]
        self.layout = torch.channels_last if options.get('channels_last') else torch.preserve_format
        self._cast()
        if options.get('channels_last'):
            self.model.to(memory_format=torch.channels_last)
        self._compiled: Callable | None = None

    def _cast(self) -> None:
        before = spoilt(self.model)
        self.model.to(dtype=self.dtype)
        lost = [name for name in spoilt(self.model) if name not in before]
        if lost:
            raise FloatingPointError(
                f'{self.member.where} has weights beyond the range of '
                f'precision={self.member.options["precision"]!r}: {", ".join(lost[:10])} became '
                f'Inf. '
                "Mend: precision='bf16', which has the range of float32, or 'fp32'"
            )

    def prepare(self, batch: Batch) -> Tensor:
        """Return the batch's images as this teacher expects them."""
        x = (
            batch.inputs
            if self.renormalise is None
            else self.renormalise(batch.inputs, batch.data_samples)
        )
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
            with self._blaming(x), self.taps.recording() as seen:
                self.forward(x, batch.data_samples)
        return self.taps.read(seen)

    def forward(self, x: Tensor, samples: list | None) -> Any:
        """Run the model once on images as it expects them; the taps are what is wanted of it.

        mmseg's ``mode='tensor'`` calls ``decode_head.forward`` with features, and of a cascade with
        the map before it. A head that takes more (queries that need image sizes, a text), or points
        in place of maps, can only predict.
        """
        if self.mode == 'tensor':
            return self.model(x, samples, mode='tensor')
        # not the samples' own: a teacher of another input size sees other images
        size = tuple(x.shape[2:])
        known = dict(
            ori_shape=size,
            img_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            padding_size=[0, 0, 0, 0],
        )
        return self.model.encode_decode(x, [dict(known) for _ in x])  # heads write into them

    def _blaming(self, x: Tensor) -> AbstractContextManager[None]:
        return blaming(self.member.where, self.model, self.mode, x)

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

            options = self.member.options['compile']
            self._compiled, self._seen = (
                torch.compile(run, **(options if isinstance(options, dict) else {})),
                seen,
            )
        with self._blaming(x):
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

    def observe(
        self, batch: Batch, compiled: bool = True, noises: Noises = QUIET
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Run one teacher after the other; yield each one's name and its tap name -> tensor."""
        for name, run in self.runs.items():
            with noises.awake(name, run.model):
                seen = run.observe(batch, compiled)
            yield name, noises.hear(name, seen)


def _takes_features(head: Any) -> bool:
    """Return whether a head, or each of a cascade, can be called as mmseg's ``mode='tensor'`` does.

    >>> _takes_features(nn.Identity()), _takes_features(nn.Bilinear(1, 1, 1))
    (True, False)
    """
    for given, one in enumerate(head if isinstance(head, nn.ModuleList) else [head]):
        parameters = inspect.signature(one.forward).parameters.values()
        required = [
            p
            for p in parameters
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if len(required) > min(given, 1) + 1 or hasattr(one, 'get_points_test'):
            return False
    return True


def _refuse_two_stages(model: nn.Module, options: Mapping[str, Any], where: str) -> None:
    """A second stage runs on proposals, float32 boxes that only data samples give."""
    asked = {key: options.get(key) for key in ('precision', 'fuse_bn', 'compile')}
    used = [f'{key}={value!r}' for key, value in asked.items() if value and value != 'fp32']
    if hasattr(model, 'roi_head') and used:
        raise ValueError(
            f'{where}: {", ".join(used)} is not for a {type(model).__name__}, whose second stage '
            f'runs on '
            'boxes in float32, found for each image. Mend: leave it out, or a teacher of one stage'
        )


@torch.no_grad()
def _fuse(taps: Taps, size: tuple[int, int], forward: Forward) -> None:
    """Fold BatchNorm into the convolutions before it; refuse taps whose meaning that would change."""
    from mmcv.cnn.utils import fuse_conv_bn

    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    before, parameters = _look(taps, images, forward), dict(taps.model.named_parameters())
    fuse_conv_bn(taps.model)
    after = dict(taps.model.named_parameters())
    changed = {
        n.rsplit('.', 1)[0]
        for n in parameters.keys() | after.keys()
        if parameters.get(n) is not after.get(n)
    }
    for name, path in taps.paths.items():
        if path.module in changed:
            raise ValueError(
                f'tap {name!r} of {taps.where} ({path.text!r}) reads a convolution or norm that '
                'fuse_bn=True folds together, so it would give another tensor. Mend: tap the '
                'whole block, '
                'or fuse_bn=False'
            )
    # mmcv goes by the order in which modules were registered, which need not be the order in which
    # they run.
    for (name, old), new in zip(before.items(), _look(taps, images, forward).values(), strict=True):
        if (new - old).abs().max() > 1e-2 * old.abs().max():
            raise ValueError(
                f'fuse_bn=True changes tap {name!r} of {taps.where}: a norm runs before its '
                f'convolution '
                "or apart from it (ConvModule(order=('norm', …))), so it cannot be folded. Mend: "
                'fuse_bn=False'
            )


def _look(taps: Taps, images: Tensor, forward: Forward) -> dict[str, Tensor]:
    with taps.recording() as seen:
        forward(images, None)
    return {
        name: torch.cat([v.flatten() for v in (value if isinstance(value, list) else [value])])
        for name, value in taps.read(seen).items()
    }
