"""The paraphraser of factor transfer: what an autoencoder keeps of a teacher's features."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.checks import shape_of
from mmkd.losses.fitted.part import FittedPart
from mmkd.utils.checks import check_count, check_positive

SLOPE = 0.1  # of the leaky ReLU
_BATCH = 32  # samples of a step


def factor_channels(channels: int, rate: float) -> int:
    """Return the channels of a factor: the teacher's times the rate, at least one.

    >>> factor_channels(64, 0.5), factor_channels(1, 0.5)
    (32, 1)
    """
    return max(1, round(channels * rate))


def convolutions(widths: list[int]) -> nn.Sequential:
    """Return 3×3 convolutions, each with a leaky ReLU of slope 0.1.

    >>> [type(layer).__name__ for layer in convolutions([4, 4, 2])]
    ['Conv2d', 'LeakyReLU', 'Conv2d', 'LeakyReLU']
    """
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


class Paraphraser(FittedPart):
    r"""The encoder of an autoencoder of a teacher's map, fitted once and frozen.

    Paper: Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer,
    NeurIPS 2018, arXiv 1802.04977: three 3×3 convolutions with leaky ReLU to k times the channels,
    three back. Fitted to return what it is given, by the mean absolute difference as in the
    authors' code (RepDistiller's squares it).

    The authors take SGD at 0.1 and 6 epochs of training images; here Adam, and samples of 16×16
    places of training images, divided by their root mean square, so that features of any size and
    label maps of any size take the same. Transposed convolutions of the authors' decoder are plain
    ones, which can do the same.

    Args:
        channels: C of the teacher.
        rate: k, above 0.
        epochs: How often the fit sees a sample.
        lr: Of its Adam.

    Examples:
        >>> paraphraser = Paraphraser(4)
        >>> paraphraser.fitted, paraphraser.width
        (False, 2)
        >>> paraphraser.draw(torch.Generator().manual_seed(0))
        >>> paraphraser(torch.zeros(1, 4, 5, 5)).shape
        torch.Size([1, 2, 5, 5])
    """

    noun = 'paraphraser'

    def __init__(
        self, channels: int, rate: float = 0.5, epochs: int = 30, lr: float = 1e-3
    ) -> None:
        check_paraphraser(rate, epochs, lr)
        width = factor_channels(channels, rate)
        widths = [channels, channels, width, width]
        buffers: dict[str, Tensor] = {}
        for k, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            buffers[f'weight{k}'] = torch.full((after, before, 3, 3), math.nan)
            buffers[f'bias{k}'] = torch.full((after,), math.nan)
        super().__init__(**buffers)
        self.width, self.widths, self.epochs, self.lr = width, widths, epochs, lr

    @property
    def channels(self) -> int:
        """Channels of the teacher."""
        return self.widths[0]

    def numbers(self) -> list[Tensor]:
        """Return the weights and biases, layer by layer."""
        names = ('weight0', 'bias0', 'weight1', 'bias1', 'weight2', 'bias2')
        return [getattr(self, name) for name in names]

    def forward(self, x: Tensor) -> Tensor:
        """Return the factor (N, k C, H, W) of a map (N, C, H, W), in its dtype."""
        layers = [buffer.to(x.dtype) for buffer in self.numbers()]
        for weight, bias in zip(layers[::2], layers[1::2], strict=True):
            x = F.leaky_relu(F.conv2d(x, weight, bias, padding=1), SLOPE)
        return x

    @torch.no_grad()
    def fit(self, samples: Tensor, seed: int = 0) -> dict[str, float]:
        """Fit encoder and decoder to samples (P, C + 1, h, w), and keep the encoder.

        Deterministic for a seed and a device; no other random numbers are drawn.

        Args:
            samples: Pieces of maps; the last channel is 1 where a place counts, else 0.
            seed: Of the initial weights and of the order.

        Returns:
            ``samples``: their number; ``vectors``: how many places of them count; ``error``: the
            mean absolute difference over the mean absolute feature, 0 if nothing is lost.

        Raises:
            ValueError: Nothing counts, features that are not finite or 0 throughout, or a fit that
                leads to NaN or Inf.
        """
        maps, counts = samples[:, :-1], samples[:, -1:]
        size = _check_samples(maps, counts, self.channels)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed is for devices too
            encoder, decoder = convolutions(self.widths), convolutions(self.widths[::-1])
        net = nn.Sequential(encoder, decoder).to(self.fingerprint.device)
        with torch.enable_grad():
            self._train(net, maps / size, counts, torch.Generator().manual_seed(seed))
        missing = total = 0.0
        for part, own in zip(maps.split(_BATCH), counts.split(_BATCH), strict=True):
            x = part.to(self.fingerprint.device) / size
            missing += ((net(x) - x).abs() * own.to(x)).sum().item()
            total += x.abs().sum().item()
        if not math.isfinite(missing):
            raise ValueError(
                f'the paraphraser became NaN or Inf in {self.epochs} epochs of lr={self.lr}. Mend: '
                f'lr={self.lr / 10:g}'
            )
        learned = [*encoder.parameters()]
        learned[0].div_(size)  # so that it takes features as they are
        for buffer, parameter in zip(self.numbers(), learned, strict=True):
            buffer.copy_(parameter)
        return dict(samples=len(maps), vectors=int(counts.sum()), error=missing / total)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw weights that belong to no teacher."""
        for buffer in self.numbers():
            fan_in = buffer[0].numel() if buffer.dim() > 1 else 1
            scale = math.sqrt(2 / fan_in) if buffer.dim() > 1 else 0.0
            buffer.copy_(scale * torch.randn(buffer.shape, generator=generator))

    def _train(
        self, net: nn.Module, maps: Tensor, counts: Tensor, generator: torch.Generator
    ) -> None:
        optimizer = torch.optim.Adam(net.parameters(), self.lr)
        device = self.fingerprint.device
        for _ in range(self.epochs):
            for chosen in torch.randperm(len(maps), generator=generator).split(_BATCH):
                x, own = maps[chosen].to(device), counts[chosen].to(device)
                loss = ((net(x) - x).abs() * own).sum() / (own.sum() * x.shape[1])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def check_paraphraser(rate: float, epochs: int, lr: float) -> None:
    """Refuse what no paraphraser can be.

    Raises:
        ValueError: A rate or learning rate that is not above 0, no epoch.

    >>> check_paraphraser(0.5, 30, 1e-3)
    """
    check_positive('rate', rate)
    check_count('epochs', epochs, 1)
    check_positive('lr', lr)


def _check_samples(maps: Tensor, counts: Tensor, channels: int) -> Any:
    """Return the root mean square of samples; refuse what no autoencoder learns from."""
    if maps.dim() != 4 or maps.shape[1] != channels:
        raise ValueError(
            f'a paraphraser of {channels} channels needs samples (P, {channels + 1}, h, w), got '
            f'{(len(maps), maps.shape[1] + 1, *maps.shape[2:])}'
        )
    if not counts.any():
        raise ValueError(
            f'no place of {shape_of(maps)} counts, so no paraphraser can be fitted. Mend: images '
            "with labels, or no mask='batch.valid'"
        )
    size = maps.square().sum().div(counts.sum() * channels).sqrt().item()
    if not (math.isfinite(size) and size > 0):
        raise ValueError(
            "the teacher's features hold NaN or Inf, or nothing but 0, so no paraphraser can be "
            "fitted. Mend: check its checkpoint and inputs, or precision='bf16' in place of 'fp16'"
        )
    return size
