"""What one rank of two does with relations between the images of a whole batch."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.losses import batch_similarity, row_wise_kl

# name -> a loss of student, teacher, and mask and weight by name
LOSSES: dict[str, Callable[..., Tensor]] = {
    'dense': partial(row_wise_kl, method='dense', tau=0.5),
    'chunked': partial(row_wise_kl, method='chunked', tau=0.5),
    **{
        f'{kind} {pooled}': partial(batch_similarity, kind=kind, pooled=pooled)
        for kind in ('sp', 'rkd-distance', 'rkd-angle', 'pkt', 'cc')
        for pooled in (False, True)
    },
}
KINDS = ('whole', 'masked', 'weighted')


def batch(kind: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return student and teacher of both ranks, two images each, and mask or weight.

    One rank has more valid places than the other, and an image without any.
    """
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 4, 3, 3, 4, dtype=torch.float64, generator=generator)
    own: dict[str, Tensor] = {}
    if kind != 'whole':
        own['mask'] = torch.arange(48).view(4, 3, 4) % 5 != 1
        own['mask'][3] = False
    if kind == 'weighted':
        own['weight'] = torch.rand(4, 3, 4, generator=generator)
    return student.requires_grad_(), 2 * teacher, own


def part(rank: int, kind: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the images of one rank."""
    student, teacher, own = batch(kind)
    half = slice(2 * rank, 2 * rank + 2)
    own = {name: x[half] for name, x in own.items()}
    return student.detach()[half].requires_grad_(), teacher[half], own


def layer() -> nn.Conv2d:
    """Return a layer of the student, whose gradients data parallelism averages."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 1).double()


def work(rank: int, folder: Path) -> None:
    """Write values and gradients of this rank's half into ``rank{rank}.json``."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        for name, loss in LOSSES.items():
            student, teacher, own = part(rank, kind)
            value = loss(student, teacher, **own)
            value.backward()
            assert student.grad is not None
            found[f'{name} {kind}'] = dict(value=value.item(), gradient=student.grad.tolist())
            apart = loss(student.detach(), teacher, gather=False, **own)
            found[f'{name} {kind}']['apart'] = apart.item()
    student, teacher, own = part(rank, 'masked')
    for name, loss in LOSSES.items():
        model = nn.parallel.DistributedDataParallel(layer())
        loss(model(student), teacher, **own).backward()
        found[f'layer {name}'] = [p.grad.tolist() for p in model.parameters()]
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
