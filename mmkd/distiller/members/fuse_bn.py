"""Folding of a teacher's BatchNorm into its convolutions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmkd.distiller.taps.taps import Taps

Forward = Callable[[Tensor, list | None], Any]  # of images, as a teacher expects them


@torch.no_grad()
def fuse_bn(taps: Taps, size: tuple[int, int], forward: Forward) -> None:
    """Fold BatchNorm into the convolutions before it; refuse taps whose meaning that would change.

    Args:
        taps: The teacher's.
        size: Of the generated images on which the taps are compared.
        forward: Runs the teacher on images.

    Raises:
        ValueError: A tap reads what is folded, or changes its value.
    """
    from mmcv.cnn.utils import fuse_conv_bn

    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    before, parameters = _look(taps, images, forward), dict(taps.model.named_parameters())
    fuse_conv_bn(taps.model)
    after = dict(taps.model.named_parameters())
    names = parameters.keys() | after.keys()
    changed = {n.rsplit('.', 1)[0] for n in names if parameters.get(n) is not after.get(n)}
    for name, path in taps.paths.items():
        if path.module in changed:
            raise ValueError(
                f'tap {name!r} of {taps.where} ({path.text!r}) reads a convolution or norm that '
                'fuse_bn=True folds together, so it would give another tensor. Mend: tap the whole '
                'block, or fuse_bn=False'
            )
    # mmcv goes by the order in which modules were registered, not by that in which they run
    now = _look(taps, images, forward)
    for name, old in before.items():
        if (now[name] - old).abs().max() > 1e-2 * old.abs().max():
            raise ValueError(
                f'fuse_bn=True changes tap {name!r} of {taps.where}: a norm runs before its '
                "convolution or apart from it (ConvModule(order=('norm', …))), so it cannot be "
                'folded. Mend: fuse_bn=False'
            )


def _look(taps: Taps, images: Tensor, forward: Forward) -> dict[str, Tensor]:
    with taps.recording() as seen:
        forward(images, None)
    return {name: _flat(value) for name, value in taps.read(seen).items()}


def _flat(value: Tensor | list[Tensor]) -> Tensor:
    return torch.cat([x.flatten() for x in (value if isinstance(value, list) else [value])])
