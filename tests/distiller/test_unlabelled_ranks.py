"""Two processes of which one has no labels: none waits, and they take the same step."""

from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.processes import ranks
from helpers.two_ranks_unlabelled import SHARES, STEPS, batch, model, state, work
from helpers.unlabelled import part
from torch import Tensor


def in_one_process(places: list[list[int]]) -> dict[str, Tensor]:
    """Return the weights after steps by the mean of the gradients of these parts."""
    own = model()
    optim = tiny.sgd(own)
    for step in range(STEPS):
        for each in places:
            data = own.data_preprocessor(part(batch(step), each), True)
            total, _ = own.parse_losses(own(**data, mode='loss'))
            (total / len(places)).backward()
        optim.step()
        optim.zero_grad()
    return state(own)


@pytest.mark.filterwarnings('ignore')
def test_ranks_with_and_without_labels_take_the_mean_step(tmp_path: Path) -> None:
    ranks(work, tmp_path)
    first, second = (torch.load(tmp_path / f'rank{rank}.pth') for rank in range(2))
    expected = {name: in_one_process(list(shares)) for name, shares in SHARES.items()}
    for name, own in first.items():
        for key, value in own.items():
            torch.testing.assert_close(value, second[name][key], rtol=0, atol=0, msg=key)
            other = expected[name.split(',')[0]][key]
            torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6, msg=key)
    # with equal shares it is one process on the joined batch
    joined = in_one_process([[0, 1, 2, 3]])
    for key, value in first['equal, PhasedDDP'].items():
        torch.testing.assert_close(value, joined[key], rtol=1e-5, atol=1e-6, msg=key)
