"""Sides of a module at which a tap reads: output, input, attention's heads, a head's class map."""

import inspect
from functools import wraps
from typing import Any

from torch import nn

from mmkd.distiller.taps.attention import Take, hook_probabilities, reader_of
from mmkd.distiller.taps.tap_path import TapPath
from mmkd.tasks.queries import class_map


class Side:
    """One side of a module."""

    def hook(self, module: nn.Module, path: TapPath, take: Take, where: str) -> list[Any]:
        """Install what hands the tensor to ``take``; return the handles.

        Args:
            module: The module.
            path: The tap.
            take: What is done with what is seen.
            where: How errors call the tap.
        """
        raise NotImplementedError


class Output(Side):
    """What a module returns."""

    def hook(self, module: nn.Module, path: TapPath, take: Take, where: str) -> list[Any]:
        """Hook the end of the forward; index 1 of attention is its probabilities by head."""
        handles = [module.register_forward_hook(lambda _, args, output: take(output))]
        if path.index[:1] == (1,):
            handles += hook_probabilities(module, where)
        return handles


class Input(Side):
    """What a module is called with: the first argument, one by its place, or one by its name."""

    def hook(self, module: nn.Module, path: TapPath, take: Take, where: str) -> list[Any]:
        """Hook the begin of the forward."""

        def take_input(_: nn.Module, args: tuple, kwargs: dict) -> None:
            if not path.index:
                take(next(iter([*args, *kwargs.values()]), None))
            elif isinstance(path.index[0], int):
                take(args)
            else:
                named = path.index[0] in kwargs
                bound = inspect.signature(module.forward).bind
                take(kwargs if named else bound(*args, **kwargs).arguments)

        return [module.register_forward_pre_hook(take_input, with_kwargs=True)]


class Heads(Side):
    """The queries or the keys of attention, (N, heads, tokens, d)."""

    def __init__(self, side: str) -> None:
        self.side = side

    def hook(self, module: nn.Module, path: TapPath, take: Take, where: str) -> list[Any]:
        """Hook what makes them."""
        return reader_of(module, where).hook(module, self.side, take, where)


class Scores(Side):
    """The class map that the forward of a head answers with, of queries assembled."""

    def hook(self, module: nn.Module, path: TapPath, take: Take, where: str) -> list[Any]:
        """Wrap the forward on the instance: mmseg calls that of a head past its hooks."""
        forward, own = module.forward, module.__dict__.get('forward')

        @wraps(forward)  # its signature says how it may be called
        def answering(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            take(class_map(output, where))
            return output

        module.forward = answering
        return [_Unwrap(module, own)]


class _Unwrap:
    """The handle of a wrapped forward."""

    def __init__(self, module: nn.Module, own: Any) -> None:
        self.module, self.own = module, own

    def remove(self) -> None:
        """Give the module its forward back."""
        del self.module.forward
        if self.own is not None:
            self.module.forward = self.own


SIDES = dict(
    output=Output(),
    input=Input(),
    query=Heads('query'),
    key=Heads('key'),
    scores=Scores(),
)
