"""Divergences whose terms are of a whole batch see that of all ranks."""

import json
from pathlib import Path

import pytest
import torch
from helpers import two_ranks_divergences as halves
from helpers.processes import ranks


@pytest.mark.slow
def test_two_ranks_are_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    """Values, and the gradients that data parallelism averages; half a batch alone is another."""
    ranks(halves.work, tmp_path)
    found = [json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2)]
    for kind in halves.KINDS:
        for name, loss in halves.LOSSES.items():
            student, teacher, own = halves.batch(kind)
            value = loss(student, teacher, **own)
            gradient = torch.autograd.grad(value, student)[0]
            values, gradients = (
                [one[f'{name} {kind}'][key] for one in found] for key in ('value', 'gradient')
            )
            assert sum(values) / 2 == pytest.approx(value.item(), rel=1e-12)
            together = torch.cat([torch.tensor(g, dtype=torch.float64) for g in gradients]) / 2
            torch.testing.assert_close(together, gradient, rtol=1e-9, atol=1e-14)
            parts = [halves.part(rank, kind) for rank in range(2)]
            alone = [loss(student, teacher, **own).item() for student, teacher, own in parts]
            assert sum(alone) / 2 != pytest.approx(value.item(), rel=1e-3)
