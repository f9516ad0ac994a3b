"""Tracing: one forward of a model, in which every call of every module is noted."""

from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.structures.trace import Call, Shape, Trace

_NOT_HELD = 'backbone'  # of large images its maps would fill the memory


@torch.no_grad()
def trace(model: nn.Module, inputs: Tensor, forward: Callable[[], Any]) -> Trace:
    """Run one forward of a model and return every call of its modules.

    Hooks are not enough: mmseg calls the ``forward`` of a head past them. So each module's
    ``forward`` is wrapped on the instance while this runs.

    Args:
        model: The model; it is left as it was.
        inputs: What the forward reads, for its numbers alone.
        forward: Runs it once.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> x = torch.ones(1, 2)
    >>> [call.path for call in trace(net, x, lambda: net(x)).calls]
    ['0', '1']
    """
    found = Trace(images=len(inputs), size=tuple(inputs.shape[2:]))
    numbers: Counter = Counter()
    waiting: set[str] = set()  # those whose hooks were called and whose forward was not yet
    handles, wrapped = [], []
    try:
        for path, module in model.named_modules():
            if not path or isinstance(module, torch.jit.ScriptModule):
                continue
            handles.append(module.register_forward_pre_hook(lambda *_, p=path: waiting.add(p)))
            wrapped.append((module, module.__dict__.get('forward')))
            module.forward = _noting(found, path, module, numbers, waiting)
        found.returned = forward()
    finally:
        for handle in handles:
            handle.remove()
        for module, original in wrapped:
            module.__dict__.pop('forward', None)
            if original is not None:
                module.forward = original
    return found


def _noting(
    found: Trace, path: str, module: nn.Module, numbers: Counter, waiting: set[str]
) -> Callable[..., Any]:
    forward = module.forward
    within = f'{path}.'.startswith(f'{_NOT_HELD}.') and path != _NOT_HELD

    @wraps(forward)
    def noting(*args: Any, **kwargs: Any) -> Any:
        hooked = path in waiting
        waiting.discard(path)
        number = numbers[path]
        numbers[path] += hooked
        output = forward(*args, **kwargs)
        given: dict[int | str, Any] = dict(enumerate(args))
        given.update(kwargs)
        if within:
            found.calls.append(Call(path, number, module, _shapes(given), _shapes(output), hooked))
        else:
            found.calls.append(Call(path, number, module, given, output, hooked))
        return output

    return noting


def _shapes(value: Any) -> Any:
    """Return a nested value with shapes in place of its tensors, and None for all else."""
    if isinstance(value, Tensor):
        return Shape(tuple(value.shape))
    if isinstance(value, list | tuple):
        return tuple(_shapes(one) for one in value)
    if isinstance(value, dict):
        return {key: _shapes(one) for key, one in value.items()}
    return None
