"""PGD: the attack by which robustness is measured."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmkd.utils.checks import check_count, check_non_negative, check_positive
from mmkd.utils.pixels import pixel_statistics


def pgd(
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    epsilon: float = 0.031,
    step: float = 0.003,
    steps: int = 20,
    random_start: bool = True,
    unit: Tensor | float = 1.0,
    low: Tensor | float = 0.0,
    high: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Move images so that a loss grows, no value further than ``epsilon``.

    Paper: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018,
    arXiv 1706.06083; the defaults are those of the evaluation of Arani et al., arXiv 1910.05057.

    .. math:: x_0 = \Pi(x + u),\ u \sim \mathcal U(-\epsilon, \epsilon), \quad
              x_{t+1} = \Pi(x_t + \eta\,\mathrm{sign}\,\nabla_x \ell(x_t)), \quad
              \Pi = \text{projection on } [x - \epsilon, x + \epsilon] \cap [0, 1]

    Args:
        loss: Images -> value, 0-d, or one an image: the images must not act on one another's.
        images: x, (N, C, H, W).
        epsilon: In units of [0, 1] pixels.
        step: eta, in the same unit.
        steps: How many.
        random_start: False starts at x.
        unit: What 1 of these units is in the images given: 255/std where they are normalised, by
            channel (C, 1, 1).
        low: The value of a black pixel in the images given.
        high: The value of a white one.
        generator: Of the random start; None: torch's global one.

    Returns:
        The moved images, without gradient.

    Raises:
        ValueError: An epsilon below 0, a step of 0 or below, fewer steps than 1.

    Examples:
        >>> x = torch.tensor([0.5, 0.01, 0.99]).view(1, 3, 1, 1)
        >>> signs = torch.tensor([1., -1., 1.]).view(3, 1, 1)
        >>> pgd(lambda x: (x * signs).sum(), x, 0.03, 0.02, 2, random_start=False).flatten()
        tensor([0.5300, 0.0000, 1.0000])
    """
    images = images.detach()
    check_non_negative('epsilon', epsilon)
    check_positive('step', step)
    check_count('steps', steps, 1)
    least, most = (
        (images + sign * epsilon * unit).clamp(min=torch.as_tensor(low), max=torch.as_tensor(high))
        for sign in (-1, 1)
    )
    moved = images.clone()
    if random_start:
        device = images.device if generator is None else generator.device
        draw = torch.rand(images.shape, dtype=images.dtype, device=device, generator=generator).to(
            images.device
        )
        moved = torch.lerp(images - epsilon * unit, images + epsilon * unit, draw).clamp(
            least, most
        )
    for _ in range(steps):
        with torch.enable_grad():
            moved.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(moved).sum(), moved)
        moved = (moved.detach() + step * unit * gradient.sign()).clamp(least, most)
    return moved


def pixel_units(preprocessor: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how [0, 1] pixels look after a data preprocessor: the unit, black and white.

    Each is (C, 1, 1).

    >>> from mmengine.model import ImgDataPreprocessor
    >>> preprocessor = ImgDataPreprocessor(mean=[127.5] * 3, std=[51.] * 3)
    >>> [x.flatten().tolist() for x in pixel_units(preprocessor, torch.zeros(1, 3, 2, 2))]
    [[5.0, 5.0, 5.0], [-2.5, -2.5, -2.5], [2.5, 2.5, 2.5]]
    """
    mean, std = (x.to(images) for x in pixel_statistics(preprocessor))
    return 255 / std, -mean / std, (255 - mean) / std
