"""PGD by hand, against a slow loop, and in pixel units."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

from mmkd.evaluation.functional.pgd import pgd, pixel_units


def images(n: int = 4, seed: int = 0, **options: Any) -> Tensor:
    """Return images of [0, 1] pixels, some of them black or white."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(n, 3, 5, 6, generator=generator, **options) - 0.5).clamp(0, 1)


def network(seed: int = 0) -> nn.Module:
    """Return a small differentiable classifier in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5)).double()


LABELS = torch.tensor([0, 1, 2, 3])


def test_equals_the_equation_value_by_value() -> None:
    """Without a random start, in plain numpy around the gradient."""
    model, x = network(), images(dtype=torch.float64)
    moved = x.numpy().copy()
    for _ in range(5):
        at = torch.from_numpy(moved).requires_grad_()
        F.cross_entropy(model(at), LABELS, reduction='sum').backward()
        for index in np.ndindex(*moved.shape):
            value = moved[index] + 0.02 * np.sign(at.grad[index].item())
            value = min(max(value, x[index].item() - 0.05), x[index].item() + 0.05)
            moved[index] = min(max(value, 0.0), 1.0)
    found = pgd(lambda z: F.cross_entropy(model(z), LABELS), x, 0.05, 0.02, 5, random_start=False)
    assert torch.allclose(found, torch.from_numpy(moved), atol=1e-12, rtol=0)


def test_limits() -> None:
    x, slope = images(), torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(3))

    def linear(z: Tensor) -> Tensor:
        return (z * slope).sum((1, 2, 3))

    assert torch.equal(pgd(linear, x, epsilon=0.0), x), 'nothing is allowed to move'
    steps_end_first = pgd(linear, x, 0.5, 0.01, 3, random_start=False)
    assert torch.allclose(steps_end_first, (x + 0.03 * slope.sign()).clamp(0, 1), atol=1e-6)
    epsilon_ends_first = pgd(linear, x, 0.02, 0.01, 9)
    assert torch.allclose(epsilon_ends_first, (x + 0.02 * slope.sign()).clamp(0, 1), atol=1e-6), (
        'from any start'
    )


def test_stays_in_the_box_and_raises_the_loss() -> None:
    model, x = network(), images(dtype=torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def loss(z: Tensor) -> Tensor:
        return F.cross_entropy(model(z), LABELS)

    values = []
    for steps in (1, 5, 20):
        moved = pgd(loss, x, 0.031, 0.003, steps, generator=torch.Generator().manual_seed(0))
        assert (moved - x).abs().max() <= 0.031 + 1e-9
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert not moved.requires_grad
        values.append(loss(moved).item())
    assert loss(x).item() < values[0] < values[1] < values[2]
    assert all(p.grad is None for p in model.parameters()), 'the network is left alone'
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_random_start_is_uniform_seeded_and_clipped() -> None:
    x = torch.full((100, 3, 20, 20), 0.5)

    def start(seed: int) -> Tensor:  # steps too small to count
        return pgd(
            lambda z: z.sum(), x, 0.1, 1e-9, 1, generator=torch.Generator().manual_seed(seed)
        )

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))
    noise = (start(0) - x) / 0.1
    assert noise.mean().abs() < 3 * 3**-0.5 / 120_000**0.5
    assert noise.var().item() == pytest.approx(1 / 3, rel=0.01)
    assert noise.abs().max() <= 1 + 1e-5


def test_works_under_no_grad_and_leaves_the_images() -> None:
    x = images()
    before = x.clone()
    with torch.no_grad():
        moved = pgd(lambda z: z.square().sum(), x, random_start=False)
    assert not torch.equal(moved, x)
    assert torch.equal(x, before)


def test_attack_on_normalised_images_is_the_attack_on_pixels() -> None:
    """255/std is 1 in the units of the network; channel order and padding value do not matter."""
    preprocessor = ImgDataPreprocessor(mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0])
    x, model = images(), network().float()
    mean, std = (getattr(preprocessor, name).view(3, 1, 1) for name in ('mean', 'std'))
    normalised = (255 * x - mean) / std
    unit, low, high = pixel_units(preprocessor, normalised)
    attacked = pgd(
        lambda z: F.cross_entropy(model(z), LABELS),
        normalised,
        random_start=False,
        unit=unit,
        low=low,
        high=high,
    )
    pixels = pgd(
        lambda z: F.cross_entropy(model((255 * z - mean) / std), LABELS), x, random_start=False
    )
    assert torch.allclose((attacked * std + mean) / 255, pixels, atol=1e-5)
    raw = pixel_units(ImgDataPreprocessor(), x)
    assert [value.item() for value in raw] == [255, 0, 255]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(epsilon=-0.1), 'epsilon must be a finite number, 0 or above, got -0.1'),
        (dict(step=0.0), 'step must be a finite number above 0, got 0.0'),
        (dict(steps=0), 'steps must be a whole number of at least 1, got 0'),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pgd(lambda z: z.sum(), images(), **options)
