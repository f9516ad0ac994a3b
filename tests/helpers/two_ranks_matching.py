"""What one rank of two does with features that are normalised over the whole batch."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.losses import feature_matching, partial_l2


def batch(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return student, teacher and mask of both ranks: two images each, as many valid places."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (
        torch.randn(4, 3, 4, 5, dtype=torch.float64, generator=generator) for _ in range(2)
    )
    shift = torch.arange(4, dtype=torch.float64).view(4, 1, 1, 1)  # ranks differ in their means
    mask = torch.ones(4, 4, 5, dtype=torch.bool)
    if kind == 'masked':
        mask = torch.arange(20).view(1, 4, 5).repeat(4, 1, 1) % 3 != 1
    return (student + shift).requires_grad_(), teacher * (1 + shift), mask


def layer() -> nn.Conv2d:
    """Return a layer of the student, whose gradients data parallelism averages."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 1).double()


def work(rank: int, folder: Path) -> None:
    """Write value and gradient of this rank's half into ``rank{rank}.json``."""
    found: dict[str, Any] = {}
    for kind in ('whole', 'masked'):
        student, teacher, mask = (x.detach()[2 * rank : 2 * rank + 2] for x in batch(kind))
        student.requires_grad_()
        value = feature_matching(student, teacher, 'batch', mask=mask)
        value.backward()
        assert student.grad is not None
        found[kind] = dict(
            value=value.item(),
            gradient=student.grad.tolist(),
            partial_l2=partial_l2(student, teacher, mask=mask).item(),
        )
    student, teacher, mask = (x.detach()[2 * rank : 2 * rank + 2] for x in batch('masked'))
    model = nn.parallel.DistributedDataParallel(layer())
    feature_matching(model(student), teacher, 'batch', mask=mask).backward()
    found['layer'] = [p.grad.tolist() for p in model.parameters()]
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
