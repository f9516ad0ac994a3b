"""Two processes hold the same memories: those of one process on the joined batch, in rank order."""

import json
from pathlib import Path

import pytest
import torch
from helpers import two_ranks_memory
from helpers.processes import ranks


def test_both_ranks_hold_what_one_process_holds(tmp_path: Path) -> None:
    ranks(two_ranks_memory.work, tmp_path)
    found = [json.loads((tmp_path / f'rank{k}.json').read_text()) for k in range(2)]
    joined = two_ranks_memory.run(slice(None))
    for name, one in joined.items():
        first, second = (rank[name] for rank in found)
        assert first['rings'] == second['rings'], 'bit for bit'
        for key, x in one['rings'].items():
            rows, got = (torch.tensor(r, dtype=torch.float64) for r in (x, first['rings'][key]))
            if name == 'memory' and key == 'pixel.rows':  # an image's pixels come in any order
                rows, got = _sorted(rows), _sorted(got)
            torch.testing.assert_close(got, rows, rtol=1e-12, atol=1e-15)
        # of as many valid places each; in step 1 the second rank has none
        for step in range(two_ranks_memory.STEPS):
            values = [rank[name]['values'][step] for rank in found]
            if name == 'memory' and step == 1:
                assert values[1] == 0
                values = values[:1]
            mean = sum(values) / len(values)
            assert one['values'][step] == pytest.approx(mean, rel=1e-9, abs=1e-12)


def _sorted(rows: torch.Tensor) -> torch.Tensor:
    rings = rows[:-1].view(two_ranks_memory.CLASSES, -1, rows.shape[1])
    return torch.stack([ring[ring[:, 0].argsort()] for ring in rings])
