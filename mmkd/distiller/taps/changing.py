"""Changing: a tensor that a tap names, replaced on its way while a forward runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mmkd.distiller.taps.tap_path import TapPath

Change = Callable[[Tensor], Tensor]


@contextmanager
def changing(model: nn.Module, path: TapPath, change: Change, where: str) -> Iterator[None]:
    """Let what comes after a tap read a changed tensor, in the forwards inside the block.

    Args:
        model: Whose tap it is; it is left as it was.
        path: The tap: an output, or an input by its place.
        change: Makes the tensor that is read in its stead.
        where: How errors call the tap.

    Raises:
        ValueError: The tap is of another side, or of one call of several.

    >>> import torch
    >>> model = nn.Sequential(nn.ReLU(), nn.Flatten())
    >>> with changing(model, TapPath.parse('0'), lambda x: x + 1, "tap 'a'"):
    ...     model(torch.tensor([[-1., 1.]]))
    tensor([[1., 2.]])
    >>> model(torch.tensor([[-1., 1.]]))
    tensor([[0., 1.]])
    """
    by_name = path.side == 'input' and any(isinstance(key, str) for key in path.index[:1])
    if path.side not in ('output', 'input') or path.call is not None or by_name:
        raise ValueError(
            f'{where} cannot be changed on its way: that takes the output of a module, or an input '
            "by its place, which runs once. Mend: a tap such as 'decode_head.conv_seg', or "
            "'decode_head.conv_seg:input'"
        )

    def follow(value: Any, index: tuple) -> Any:
        if not index:
            return change(value)
        if isinstance(value, dict):
            return {**value, index[0]: follow(value[index[0]], index[1:])}
        items = list(value)
        items[index[0]] = follow(items[index[0]], index[1:])
        return type(value)(*items) if hasattr(value, '_fields') else type(value)(items)

    module = model.get_submodule(path.module)
    if path.side == 'output':
        handle = module.register_forward_hook(lambda _, args, output: follow(output, path.index))
    else:
        handle = module.register_forward_pre_hook(lambda _, args: follow(args, path.index or (0,)))
    try:
        yield
    finally:
        handle.remove()
