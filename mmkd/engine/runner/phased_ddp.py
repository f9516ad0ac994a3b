"""PhasedDDP: data parallelism where gradients come by phase."""

from typing import Any

import torch
import torch.distributed as dist
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from mmkd.registry import MODEL_WRAPPERS


def average_over_ranks(
    gradients: list[Tensor | None], parameters: list[Tensor]
) -> list[Tensor | None]:
    """Average gradients over all ranks, by one all-reduce a dtype.

    A parameter that no rank used stays without one.

    Args:
        gradients: One gradient or None a parameter.
        parameters: The parameters, in the same order on all ranks.
    """
    averaged: list[Tensor | None] = [None] * len(parameters)
    for dtype in dict.fromkeys(p.dtype for p in parameters):
        index = [i for i, p in enumerate(parameters) if p.dtype == dtype]
        given = [gradients[i] for i in index]
        parts = [
            (torch.zeros_like(parameters[i]) if g is None else g).reshape(-1)
            for i, g in zip(index, given, strict=True)
        ]
        used = torch.tensor(
            [float(g is not None) for g in given], dtype=dtype, device=parts[0].device
        )
        flat = torch.cat([*parts, used])
        dist.all_reduce(flat)
        flat[: -len(index)] /= dist.get_world_size()
        pieces = flat[: -len(index)].split([part.numel() for part in parts])
        complete = all(g is not None for g in given)  # the usual case needs no synchronisation
        someone = [True] * len(index) if complete else (flat[-len(index) :] > 0).tolist()
        for i, piece, was_used in zip(index, pieces, someone, strict=True):
            averaged[i] = piece.view_as(parameters[i]) if was_used else None
    return averaged


@MODEL_WRAPPERS.register_module()
class PhasedDDP(nn.Module):
    """Wrap a Distiller for distributed training with any number of phases, on GPU or CPU (gloo).

    torch's DDP reduces in ``backward`` hooks, which several ``autograd.grad`` calls over one
    forward never trigger, so ranks would silently diverge. Here parameters and buffers are
    broadcast once, and each phase's gradients are averaged before its optimizer clips and steps.

    Args:
        module: The Distiller.
        **unused: Arguments of torch's DDP that mmengine passes to every wrapper (``device_ids``,
            …).

    Raises:
        TypeError: The module has no phases.
        RuntimeError: torch.distributed is not initialised.
    """

    def __init__(self, module: Any, **unused: Any) -> None:
        super().__init__()
        if not hasattr(module, 'phase_runner'):
            raise TypeError(
                f"PhasedDDP wraps a Distiller, got {type(module).__name__}. Mend: mmengine's own "
                'MMDistributedDataParallel for plain models'
            )
        if not dist.is_initialized():
            raise RuntimeError(
                'PhasedDDP needs torch.distributed. Mend: start with torchrun and --launcher '
                'pytorch'
            )
        if next(module.parameters()).device.type == 'cpu':
            print_log(
                'PhasedDDP: SyncBN cannot run on a CPU, so it is reverted to BN', logger='current'
            )
            module = revert_sync_batchnorm(module)
        self.module: Any = module
        module.phase_runner.reduce = average_over_ranks
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.data, src=0)
        module.broadcast_teachers()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self.module(*args, **kwargs)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """Step the module; its phases average their gradients."""
        return self.module.train_step(*args, **kwargs)

    def val_step(self, *args: Any, **kwargs: Any) -> Any:
        """Predict a validation batch."""
        return self.module.val_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Predict a test batch."""
        return self.module.test_step(*args, **kwargs)
