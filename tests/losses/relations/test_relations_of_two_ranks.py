"""Relations between images see those of all ranks."""

import json
from pathlib import Path

import pytest
import torch
from helpers import two_ranks_relations as halves
from helpers.processes import ranks


@pytest.mark.slow
def test_two_ranks_are_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    """Values and the gradients that data parallelism averages, whatever counts on which rank."""
    ranks(halves.work, tmp_path)
    found = [json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2)]
    for kind in halves.KINDS:
        for name, loss in halves.LOSSES.items():
            student, teacher, own = halves.batch(kind)
            value = loss(student, teacher, **own)
            gradient = torch.autograd.grad(value, student)[0]
            values, gradients, apart = (
                [one[f'{name} {kind}'][key] for one in found]
                for key in ('value', 'gradient', 'apart')
            )
            assert sum(values) / 2 == pytest.approx(value.item(), rel=1e-11)
            together = torch.cat([torch.tensor(g, dtype=torch.float64) for g in gradients]) / 2
            torch.testing.assert_close(together, gradient, rtol=1e-9, atol=1e-14)
            for rank in range(2):
                student, teacher, own = halves.part(rank, kind)
                alone = loss(student, teacher, **own).item()
                assert apart[rank] == pytest.approx(alone, rel=1e-12)
                assert alone != pytest.approx(value.item(), rel=1e-3)
    student, teacher, own = halves.batch('masked')
    for name, loss in halves.LOSSES.items():
        layer = halves.layer()
        loss(layer(student.detach()), teacher, **own).backward()
        for one in found:
            for got, p in zip(one[f'layer {name}'], layer.parameters(), strict=True):
                got = torch.tensor(got, dtype=torch.float64)
                torch.testing.assert_close(got, p.grad, rtol=1e-9, atol=1e-14)
