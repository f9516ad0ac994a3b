"""Batches of images with labels and images without, and Distillers that see them."""

from typing import Any

import torch
from helpers import tiny
from mmseg.structures import SegDataSample
from torch import Tensor, nn


def mark(data: dict, places: list[int]) -> dict:
    """Return a batch in which the images at these places have no labels."""
    samples = list(data['data_samples'])
    for place in places:
        samples[place] = SegDataSample(metainfo={**samples[place].metainfo, 'labelled': False})
    return dict(inputs=data['inputs'], data_samples=samples)


def mixed(n: int, places: list[int], size: int = 32, seed: int = 0, **options: Any) -> dict:
    """Return a generated batch in which some images have no labels."""
    return mark(tiny.batch(n, size, seed=seed, **options), places)


def part(data: dict, places: list[int]) -> dict:
    """Return a batch of some of the images."""
    return {key: [value[place] for place in places] for key, value in data.items()}


def distiller(dropout: float = 0.0, seed: int = 3, **changes: Any) -> Any:
    """Return a small Distiller in train mode, its norms over the batch."""
    torch.manual_seed(seed)
    config = tiny.distiller(
        student=dict(model=tiny.segmentor(4, dropout=dropout, size=32)),
        teacher=dict(model=tiny.segmentor(8, size=32), allow_untrained=True),
        objectives=tiny.objectives(pair=None),
    )
    return tiny.build(config | changes)


def observe(model: Any, data: dict, seed: int = 5) -> tuple[Any, dict[str, Tensor]]:
    """Return what the taps saw, and the students' own losses, of random numbers from a seed."""
    torch.manual_seed(seed)
    return model.observe(**model.data_preprocessor(data, True))


def freeze_norms(model: Any) -> Any:
    """Put norms over the batch into eval mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model
