"""Past: a copy of a student as it was some steps ago."""

import torch
from torch import Tensor, nn

from mmkd.distiller.members.kinds.follow import Follow, agree, copy_tensors, take_all
from mmkd.registry import KINDS
from mmkd.utils.checks import check_count


@KINDS.register_module(name='past')
class Past(Follow):
    """A copy of the student as it was k steps ago or more, less than 2k.

    Every k steps the weights that waited k steps become the copy's, and the student's begin to
    wait: two sets of weights, whatever k is, where a ring of the last k would need k of them. So
    the copy never is the student, from which there would be nothing to learn, but for the first k
    steps, in which it is what training began with. With k = 1 it is exactly one step behind. With
    an epoch as k it is as old as what is stored of the epoch before.

    Args:
        steps: k, 1 or more.

    Raises:
        ValueError: ``steps`` is no whole number of at least 1.

    Examples:
        >>> own, student, past = nn.Linear(1, 1), nn.Linear(1, 1), Past(steps=2)
        >>> _ = student.weight.data.fill_(0.)
        >>> past.begin(own, student)
        >>> found = []
        >>> for step in range(1, 8):
        ...     _ = student.weight.data.fill_(step)
        ...     past.after_step(own, student, step)
        ...     found.append(own.weight.item())
        >>> found
        [0.0, 0.0, 0.0, 2.0, 2.0, 4.0, 4.0]
    """

    def __init__(self, steps: int) -> None:
        check_count('steps', steps, 1)
        self.steps = steps
        self.waiting: dict[str, Tensor] = {}

    def begin(self, own: nn.Module, student: nn.Module) -> None:
        """Make the copy, and what waits, the student."""
        take_all(own, student)
        self.waiting = {name: x.detach().clone() for name, x in own.state_dict().items()}

    @torch.no_grad()
    def after_step(self, own: nn.Module, student: nn.Module, step: int) -> None:
        """Take over what waits, and let the student wait, every k steps."""
        if step % self.steps:
            return
        copy_tensors(own.state_dict().values(), self.waiting.values())
        copy_tensors(self.waiting.values(), student.state_dict().values())
        agree(self.waiting.values())

    def state(self) -> dict[str, Tensor]:
        """Return what waits."""
        return self.waiting

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what waited.

        Raises:
            ValueError: There is nothing.
        """
        if not state:
            raise ValueError('nothing of it waits in this checkpoint')
        self.waiting = {name: x.detach().clone() for name, x in state.items()}

    def to(self, device: torch.device) -> None:
        """Move what waits to a device."""
        self.waiting = {name: x.to(device) for name, x in self.waiting.items()}
