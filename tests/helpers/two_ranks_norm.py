"""What one rank of two does with normalisations between student and teacher."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from mmkd.connectors import Connector
from mmkd.connectors.level_fusion import SelectiveGate


def batch() -> Tensor:
    """Return the maps of both ranks, two images each, of other means."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 3, 4, 5, dtype=torch.float64, generator=generator)
    return x + torch.arange(4, dtype=torch.float64).view(4, 1, 1, 1)


def layers() -> nn.Module:
    torch.manual_seed(0)
    return Connector(3, 5, kind='conv-bn-relu').double()


def loss(x: Tensor) -> Tensor:
    return (x - 0.3).square().mean()


def work(rank: int, folder: Path) -> None:
    """Write value, gradients and buffers of this rank's half into ``rank{rank}.json``."""
    x = batch()[2 * rank : 2 * rank + 2].clone().requires_grad_()
    model = nn.parallel.DistributedDataParallel(layers())
    value = loss(model(x))
    value.backward()
    assert x.grad is not None
    found = dict(
        value=value.item(),
        input=x.grad.tolist(),
        gradients=[p.grad.tolist() for p in model.parameters()],
        buffers=[b.double().tolist() for b in model.buffers()],
    )
    (folder / f'rank{rank}.json').write_text(json.dumps(found))


def gated(first: int, last: int) -> list[list[float]]:
    """Return how much the gate takes of either map of some images."""
    torch.manual_seed(0)
    gate = SelectiveGate(3).double()
    x = batch()[first:last]
    return [one.flatten().tolist() for one in gate(x, x.flip(1) ** 2)]


def gate(rank: int, folder: Path) -> None:
    """Write what a gate takes where each rank has one image."""
    (folder / f'gate{rank}.json').write_text(json.dumps(gated(rank, rank + 1)))
