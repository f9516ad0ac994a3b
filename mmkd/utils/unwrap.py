"""The model itself, whatever distributed training has put around it."""

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> Any:
    """Return the model that a wrapper such as DistributedDataParallel holds, or the model itself.

    >>> unwrap(nn.Identity())
    Identity()
    """
    return model.module if is_model_wrapper(model) else model
