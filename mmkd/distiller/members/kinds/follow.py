"""Copies of a student that follow it: what every kind of them derives from."""

import math
from collections.abc import Iterable

import torch
from mmengine.dist import broadcast, get_world_size
from torch import Tensor, nn


class Follow:
    """How a copy of a student follows it while it learns.

    A kind of one's own is a class below this one, under ``@KINDS.register_module(name='…')``. The
    arguments of its constructor are what a config may say, beside ``of``, ``taps`` and ``points``.

    Attributes:
        numbers: Names of attributes that a schedule may change, as ``teachers.<name>.<number>``.

    Examples:
        >>> class Last(Follow):
        ...     def after_step(self, own, student, step):
        ...         take_all(own, student)
        >>> own, student = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> Last().after_step(own, student, 1)
        >>> bool(own.weight == student.weight)
        True
    """

    numbers: tuple[str, ...] = ()

    def begin(self, own: nn.Module, student: nn.Module) -> None:
        """Make the copy what it is before the first step: here, the student.

        Args:
            own: The copy.
            student: What it follows.
        """
        take_all(own, student)

    def after_step(self, own: nn.Module, student: nn.Module, step: int) -> None:
        """Follow the student, whose optimizer has just stepped.

        Args:
            own: The copy, of the same parameters and buffers.
            student: What it follows.
            step: How many steps the optimizer took so far, this one included.
        """
        raise NotImplementedError(
            f'{type(self).__name__} does not say how it follows. Mend: a method after_step(self, '
            'own, student, step)'
        )

    def check_number(self, name: str, value: float) -> None:
        """Refuse a value that a schedule would give to one of ``numbers``.

        Raises:
            ValueError: It is not finite.
        """
        if not math.isfinite(value):
            raise ValueError(f'{name} must be a finite number, got {value!r}')

    def state(self) -> dict[str, Tensor]:
        """Return what it remembers besides the copy, for checkpoints."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` returned.

        Raises:
            ValueError: A tensor is missing, or of no use.
        """
        if state:
            raise ValueError(f'{type(self).__name__} keeps nothing, got {sorted(state)[:3]}')

    def to(self, device: torch.device) -> None:
        """Move what it remembers to a device."""


def take_all(own: nn.Module, student: nn.Module) -> None:
    """Copy parameters and buffers of a student into its copy."""
    copy_tensors(own.parameters(), student.parameters())
    take_buffers(own, student)


@torch.no_grad()
def copy_tensors(own: Iterable[Tensor], others: Iterable[Tensor]) -> None:
    """Copy tensors into others of the same shapes.

    >>> one = torch.zeros(2)
    >>> copy_tensors([one], [torch.tensor([1., 2.])])
    >>> one
    tensor([1., 2.])
    """
    for mine, other in zip(own, others, strict=True):
        mine.copy_(other)


def take_buffers(own: nn.Module, student: nn.Module) -> None:
    """Copy the buffers of a student, those of rank 0 on every rank.

    Running statistics of a norm that is not synchronised differ between ranks, and the copy, in
    eval mode, would say other things on each: and a checkpoint holds those of rank 0 alone.
    """
    copy_tensors(own.buffers(), student.buffers())
    agree(own.buffers())


def agree(tensors: Iterable[Tensor]) -> None:
    """Give every rank the tensors of rank 0, in one message for each dtype."""
    if get_world_size() == 1:
        return
    tensors = list(tensors)
    for dtype in dict.fromkeys(x.dtype for x in tensors):
        mine = [x for x in tensors if x.dtype == dtype]
        flat = torch.cat([x.detach().reshape(-1) for x in mine])
        broadcast(flat)
        pieces = flat.split([x.numel() for x in mine])
        copy_tensors(mine, (piece.view_as(x) for piece, x in zip(pieces, mine, strict=True)))
