"""Noise on what teachers say: their logits, each multiplied by a random number around 1."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.losses.base import widen
from mmkd.noise.base import Host, Noise
from mmkd.registry import MODELS
from mmkd.utils.checks import check_non_negative, nearest


@MODELS.register_module()
class TargetNoise(Noise):
    r"""Multiply every value of a teacher's tap by 1 + ξ.

    Paper: Sau and Balasubramanian, Deep Model Compression: Distilling Knowledge from Noisy
    Teachers, 2016, arXiv 1610.09650; there a random part of the batches is disturbed, here every
    batch.

    .. math:: z' = (1 + \xi) \odot z, \quad \xi \sim \mathcal N(0, s^2)

    Independent for each value; all objectives that read a tap read the same disturbed one.

    Args:
        std: s, relative to the value, 0 or above.
        taps: Names of the teacher's taps that are disturbed.
        members: Teachers; None: all.

    Raises:
        ValueError: A std that is negative or not finite.
        KeyError: A tap of a teacher that no objective reads.

    >>> _ = torch.manual_seed(0)
    >>> (TargetNoise(std=0.1)(torch.full((1000, 10), -3.)) / -3).std()
    tensor(0.1002)
    """

    role = 'teacher'

    def __init__(
        self, std: float, taps: Sequence[str] = ('logits',), members: Sequence[str] | None = None
    ) -> None:
        super().__init__(members)
        check_non_negative('std of TargetNoise', std)
        if isinstance(taps, str) or not taps:
            raise TypeError(
                f"taps of TargetNoise must be a list of names such as ['logits'], got {taps!r}"
            )
        self.std, self.taps = std, tuple(taps)

    def __call__(self, values: Tensor) -> Tensor:
        """Return the values with noise; half precision would round it off, and becomes float32."""
        (values,) = widen(values)
        return torch.addcmul(values, values, torch.randn_like(values), value=self.std)

    def bind(self, host: Host) -> None:
        """Refuse a tap that no objective reads: its noise would change nothing."""
        for tap in self.taps:
            if tap not in host.taps:
                raise KeyError(
                    f'TargetNoise: no objective reads the tap {tap!r} of '
                    f'{host.where}{nearest(tap, host.taps)} (read: {list(host.taps)}). Mend: '
                    f'taps={list(host.taps)}'
                )

    def on_taps(self, seen: dict[str, Any]) -> dict[str, Any]:
        """Return what the taps saw, these with noise."""
        heard = dict(seen)
        for name, value in seen.items():  # in their order: each draws from one generator
            if name in self.taps:
                heard[name] = [self(v) for v in value] if isinstance(value, list) else self(value)
        return heard
