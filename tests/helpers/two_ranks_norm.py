"""What one rank of two does with a normalisation between student and teacher."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from mmkd.connectors import Connector


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
