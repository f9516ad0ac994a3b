"""Batch normalisation whose statistics are those of all ranks."""

import torch
from torch import Tensor, nn

from mmkd.losses.functional import no_autocast, several_ranks, sum_over_ranks, widen


class BatchNorm(nn.BatchNorm2d):
    r"""Batch normalisation in which many devices equal one: the statistics are those of all ranks.

    On one rank, and where it predicts, it is torch's, but that a single value of each channel,
    which has no variance, passes as it is. mmengine's ``sync_bn`` may put its own in place of it.

    Args:
        num_features: Channels.

    Examples:
        >>> x = torch.tensor([1., 3.]).view(2, 1, 1, 1)
        >>> BatchNorm(1)(x).flatten().tolist()
        [-0.99999..., 0.99999...]
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map (N, C, H, W), normalised."""
        if not (self.training and several_ranks()):
            alone = self.training and x.numel() == x.shape[1]
            return x if alone else super().forward(x)
        with no_autocast(x):
            return self._over_ranks(x)

    def _over_ranks(self, x: Tensor) -> Tensor:
        (wide,) = widen(x)
        shape = (1, -1, 1, 1)
        count = wide.new_full((1,), x.numel() // x.shape[1])
        *total, count = sum_over_ranks(torch.cat([wide.sum((0, 2, 3)), count])).split(
            [x.shape[1], 1]
        )
        mean = total[0] / count
        centred = wide - mean.view(shape)
        # Two passes: the mean square minus the squared mean loses all digits of a far-off channel.
        variance = sum_over_ranks(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)
