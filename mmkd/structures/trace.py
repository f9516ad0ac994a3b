"""A trace: every call of a module in one forward, with what it read and what it made."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(eq=False)  # a call is itself: tensors of two calls do not compare
class Call:
    """One call of a module.

    Args:
        path: Of the module in its model.
        number: How often hooks saw the module before, in this forward.
        module: The module.
        inputs: Its arguments, by place or by name; shapes alone are left of tensors inside a
            backbone.
        output: What it returned; likewise.
        hooked: Whether hooks saw it: mmseg calls the ``forward`` of a head past them.
    """

    path: str
    number: int
    module: nn.Module
    inputs: dict[int | str, Any]
    output: Any
    hooked: bool = True

    def __post_init__(self) -> None:
        """Note how often each tensor was changed in place when the module returned it."""
        self._made = [(index, one, _version(one)) for index, one in tensors(self.output)]

    @property
    def made(self) -> list[tuple[tuple, Any]]:
        """The tensors of its output with their index, but for those changed in place since."""
        return [(index, one) for index, one, then in self._made if _version(one) == then]


@dataclass
class Trace:
    """The calls of one forward, in the order in which they ended: what lies within comes first.

    Args:
        calls: The calls.
        returned: What the forward returned.
        images: How many images it was given.
        size: Their height and width, () where they have none.
    """

    calls: list[Call] = field(default_factory=list)
    returned: Any = None
    images: int = 1
    size: tuple[int, ...] = ()

    def of(self, path: str) -> list[Call]:
        """Return the calls of one module."""
        return [call for call in self.calls if call.path == path]

    def maker(self, tensor: Tensor, intact: bool = True) -> tuple[Call, tuple] | None:
        """Return the first call that hooks see whose output is, or holds, this very tensor.

        With it comes the index of the tensor in that output. None: no module made it.

        Args:
            tensor: The tensor.
            intact: Whether a call does not count whose output was changed in place afterwards.
        """
        for call in self.calls:
            for index, made in call.made if intact else tensors(call.output):
                if call.hooked and is_same(made, tensor):
                    return call, index
        return None

    def tap(self, call: Call, index: tuple = (), side: str = '') -> str:
        """Return a call as a tap is written, ``#k`` where the module ran several times."""
        several = sum(other.hooked for other in self.of(call.path)) > 1
        number = f'#{call.number}' if several else ''
        steps = ''.join(f'[{key}]' for key in index)
        return f'{call.path}{number}{side}{steps}'


@dataclass(frozen=True)
class Shape:
    """What is left of a tensor that a trace does not hold."""

    shape: tuple[int, ...]

    def dim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)


def tensors(value: Any, index: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Yield every tensor of a nested output, or its shape, with its index.

    >>> import torch
    >>> [index for index, _ in tensors((torch.zeros(1), dict(a=[torch.zeros(1)])))]
    [(0,), (1, 'a', 0)]
    """
    if isinstance(value, Tensor | Shape):
        yield index, value
        return
    named: Any = ()
    if isinstance(value, list | tuple):
        named = enumerate(value)
    elif isinstance(value, dict):
        named = value.items()
    for key, one in named:
        yield from tensors(one, (*index, key))


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) else 0


def is_same(one: Any, other: Any) -> bool:
    """Return whether two tensors are one in memory, whatever Python objects they are.

    >>> import torch
    >>> x = torch.zeros(2, 3)
    >>> is_same(x, x.view(2, 3)), is_same(x, x.view(3, 2)), is_same(x, x.clone())
    (True, False, False)
    """
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return one is other
    return one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
