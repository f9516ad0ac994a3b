"""What one rank of two does with features that are normalised over the whole batch."""

import json
from pathlib import Path

import torch
from torch import Tensor

from mmkd.losses import feature_matching


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


def work(rank: int, folder: Path) -> None:
    """Write value and gradient of this rank's half into ``rank{rank}.json``."""
    found = {}
    for kind in ('whole', 'masked'):
        student, teacher, mask = (x.detach()[2 * rank : 2 * rank + 2] for x in batch(kind))
        student.requires_grad_()
        value = feature_matching(student, teacher, 'batch', mask=mask)
        value.backward()
        assert student.grad is not None
        found[kind] = dict(value=value.item(), gradient=student.grad.tolist())
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
