"""Generators: what makes a map from the part of it that is kept."""

import torch
from torch import Tensor, nn

from mmkd.losses.checks import shape_of
from mmkd.losses.functional import infinite_to_nan


def generator_of(channels: int, device: torch.device | None = None) -> nn.Sequential:
    """Return two 3×3 convolutions with a ReLU between, as in MGD's code.

    >>> [type(layer).__name__ for layer in generator_of(2)]
    ['Conv2d', 'ReLU', 'Conv2d']
    """
    layers = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1]).to(device)


def check_generator(generator: nn.Module, student: Tensor) -> None:
    """Refuse a map of other channels than the generator was made for.

    >>> check_generator(generator_of(2), torch.zeros(1, 2, 4, 4))
    """
    channels = next(generator.parameters()).shape[1]
    if student.shape[1] != channels:
        raise ValueError(
            f'the generator is of {channels} channels, got student {shape_of(student)}; mend: '
            f'teacher_channels={student.shape[1]} (or None), or the tap that it was made for'
        )


def drawn_places(x: Tensor, ratio: float) -> Tensor:
    r"""Return which places of a map (N, C, \*S) are kept, bool (N, 1, \*S): not a share of them.

    >>> drawn_places(torch.zeros(1, 3, 2), ratio=0.)
    tensor([[[True, True]]])
    """
    return torch.rand((len(x), 1, *x.shape[2:]), device=x.device) >= ratio


def keep(x: Tensor, kept: Tensor, token: Tensor | None = None) -> Tensor:
    r"""Put 0, or a token (C,), where a map (N, C, \*S) is not kept.

    NaN and infinite numbers of the map come out as NaN, wherever they lie: a student that has
    overflowed must not be hidden by a draw.

    >>> x, kept = torch.tensor([[[1., 3.]]]), torch.tensor([[[True, False]]])
    >>> keep(x, kept), keep(x, kept, torch.tensor([7.]))
    (tensor([[[1., 0.]]]), tensor([[[1., 7.]]]))
    """
    seen = infinite_to_nan(x) * kept
    if token is None:
        return seen
    return seen + ~kept * token.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))
