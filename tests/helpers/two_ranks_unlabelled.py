"""What one rank of two does with images without labels."""

from pathlib import Path
from typing import Any

import torch
from helpers import tiny
from helpers.unlabelled import distiller, freeze_norms, mixed, part
from mmengine.model import MMDistributedDataParallel
from torch import Tensor

from mmkd.engine.runner.phased_ddp import PhasedDDP

# of a batch of four, which images of each rank; those at 2 and 3 have no labels
SHARES = dict(equal=([0, 2], [1, 3]), apart=([0, 1], [2, 3]))
STEPS = 2


def model() -> Any:
    """Return a Distiller without random numbers."""
    return freeze_norms(distiller())


def batch(step: int) -> dict:
    """Return the joined batch of a step."""
    return mixed(4, [2, 3], seed=step)


def state(model: Any) -> dict[str, Tensor]:
    """Return its weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def work(rank: int, folder: Path) -> None:
    """Train on this rank's share; its weights go to a file."""
    found = {}
    for name, shares in SHARES.items():
        for kind in (PhasedDDP, MMDistributedDataParallel):
            own = model()
            wrapped = kind(own, device_ids=None, broadcast_buffers=False)
            optim = tiny.sgd(own)
            for step in range(STEPS):
                log = wrapped.train_step(part(batch(step), shares[rank]), optim)
                assert torch.isfinite(log['loss'])
            found[f'{name}, {kind.__name__}'] = state(own)
    torch.save(found, folder / f'rank{rank}.pth')
