"""What one rank of two does with divergences between the regions and classes of a whole batch."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmkd.losses import dist, reliability_mix, soft_jaccard


def mixed_over_images(student: Tensor, teacher: Tensor, **own: Tensor) -> Tensor:
    """Return HeteroAKD's divergence of classes of images, which are the batch's places."""
    s, t = student.mean((2, 3)), teacher.mean((2, 3))
    return reliability_mix(s, t, t.roll(1, 1).argmax(1))


# name -> a loss of student, teacher, and mask and weight by name
LOSSES: dict[str, Callable[..., Tensor]] = {
    'dist': lambda *maps, **own: dist(*maps, tau=2.0, inter=1.0, intra=3.0, **own),
    'jaccard': lambda *maps, **own: soft_jaccard(*maps, 'jaccard', 'batch', **own),
    'reliability': mixed_over_images,
    'dice': lambda *maps, **own: soft_jaccard(*maps, 'dice', 'batch', **own),
}
KINDS = ('whole', 'masked', 'weighted')


def batch(kind: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return student and teacher of both ranks, two images each, and mask or weight.

    Both ranks have other means, a class that only one of them sees and one that is dead, and count
    as much as each other.
    """
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 4, 5, 4, 5, dtype=torch.float64, generator=generator)
    student[:, 0] += torch.arange(4).view(4, 1, 1)
    teacher[2:, 3] = student[2:, 3] = -1e4  # seen by the first rank alone
    teacher[:, 4] = student[:, 4] = -1e4
    places = torch.arange(20).view(1, 4, 5).repeat(4, 1, 1)
    own: dict[str, Tensor] = {}
    if kind == 'masked':
        own = dict(mask=places % 3 != 1)
    if kind == 'weighted':
        own = dict(weight=(places % 4).double())
    return student.requires_grad_(), 2 * teacher, own


def part(rank: int, kind: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return one rank's half of the batch."""
    student, teacher, own = batch(kind)
    half = slice(2 * rank, 2 * rank + 2)
    own = {name: x[half] for name, x in own.items()}
    return student.detach()[half].requires_grad_(), teacher[half], own


def work(rank: int, folder: Path) -> None:
    """Write value and gradient of this rank's half into ``rank{rank}.json``."""
    found: dict[str, dict] = {}
    for kind in KINDS:
        for name, loss in LOSSES.items():
            student, teacher, own = part(rank, kind)
            value = loss(student, teacher, **own)
            gradient = torch.autograd.grad(value, student)[0]
            found[f'{name} {kind}'] = dict(value=value.item(), gradient=gradient.tolist())
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
