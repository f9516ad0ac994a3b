"""Stand-ins: copies that can be run before a training without touching the modules themselves."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from mmcv.cnn.bricks.drop import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd


def copy_module(module: nn.Module, where: str, shared: Iterable[Any] = ()) -> Any:
    """Return a deep copy; what ``weight_norm`` and the like compute is copied by value.

    Args:
        module: It is left as it is.
        where: How the error calls it.
        shared: Objects that the copy holds as they are.

    Raises:
        TypeError: It holds what cannot be copied.
    """
    # torch refuses to copy a tensor that was computed from a parameter
    held = [value for part in module.modules() for value in vars(part).values()]
    computed = [value for value in held if isinstance(value, Tensor) and value.grad_fn is not None]
    memo = {id(value): value.detach().clone() for value in computed}
    try:
        return copy.deepcopy(module, memo | {id(one): one for one in shared})
    except Exception as error:  # __deepcopy__ and __reduce__ of any class run here
        raise TypeError(
            f'{where} (a {type(module).__name__}) cannot be copied ({type(error).__name__}: '
            f'{error}). It is run once on generated images before training, and on a copy, so that '
            'nothing of it changes. Mend: hold no open files, locks or computed tensors as '
            'attributes, or a __deepcopy__ of your own'
        ) from error


def stand_in(student: nn.Module, where: str, generator: torch.Generator) -> Any:
    """Return a copy of a student that any forward can run, whatever its weights are.

    Before ``init_weights`` they may be uninitialised memory. The copy has small random weights, is
    in train mode, since heads may do other things there than in eval mode, and its norms and
    dropouts are asleep: one image is too little for a norm's own statistics.

    Args:
        student: It is left as it is.
        where: How the error calls it.
        generator: Of the weights, on the CPU.

    Raises:
        TypeError: The student holds what cannot be copied.
    """
    model = copy_module(student, where)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.copy_(_small(parameter, generator))
    model.train()
    for module in model.modules():
        if sleeps(module):
            module.training = False
    return model


def sleeps(module: nn.Module) -> bool:
    """Return whether a module is a norm or a dropout, whose mode never decides which modules run.

    Of classes that are not torch's, those of one module whose name says so.

    >>> [sleeps(module) for module in (nn.BatchNorm2d(1), nn.Dropout(), nn.Conv2d(1, 1, 1))]
    [True, True, False]
    """
    if isinstance(module, _NormBase | _DropoutNd | DropPath):
        return True
    name = type(module).__name__.lower()
    words = 'norm', 'drop', 'stochasticdepth'
    return not any(True for _ in module.children()) and any(word in name for word in words)


def _small(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Return weights under which nothing explodes or dies: scales and biases from 0.5 to 1."""
    values = torch.rand(parameter.shape, generator=generator)
    if parameter.dim() < 2:
        return 0.5 + values / 2
    return (2 * values - 1) / (parameter.numel() / max(len(parameter), 1)) ** 0.5
