"""Optimizer wrappers that mmengine lacks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmkd.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """OptimWrapper whose forward runs under bfloat16 autocast, on whatever device the model is.

    mmengine's AmpOptimWrapper refuses a CPU and carries a gradient scaler, which bfloat16, with the
    exponents of float32, has no use for. Weights, gradients and optimizer states stay float32;
    accumulation and clipping are OptimWrapper's own.

    Args:
        optimizer: as for ``OptimWrapper``, like ``accumulative_counts`` and ``clip_grad``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast inside OptimWrapper's context, which holds back DDP between two steps."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
