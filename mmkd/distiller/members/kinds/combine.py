"""Combinations: teachers made of what other members say in the same step."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmkd.losses.checks import shape_of
from mmkd.utils.checks import check_fraction
from mmkd.utils.resize import resize_map


class Combine(nn.Module):
    r"""One tensor out of those of several members; what every combination derives from.

    A kind of one's own is a class below this one, under ``@KINDS.register_module(name='…')``, with
    a method ``combine``. The arguments of its constructor are what a config may say, beside ``of``.

    ``drop`` leaves out each member with this probability, anew in every training step; where none
    would stay, one does, drawn at random. It draws from torch's generator of the CPU, which
    ``ExactResumeHook`` seeds for every step, so that a resumed run draws the same.

    Args:
        drop: From 0, nobody is left out, to below 1.

    Attributes:
        reads_labels: Whether it is told the labels.
        reads_classes: Whether what it combines must be class logits.
        learns: Whether it has weights of its own: they are in the student's optimizer, and an
            objective that reads it as ``student`` trains them. One tap of it may be read.
        recalls: Whether it is made of one student, and says again what that one said before.

    Raises:
        ValueError: ``drop`` is out of range.

    Examples:
        >>> class Largest(Combine):
        ...     def combine(self, values, labels):
        ...         return values.amax(0)
        >>> Largest()([torch.tensor([[1., 4.]]), torch.tensor([[3., 2.]])])
        tensor([[3., 4.]])
    """

    reads_labels = False
    reads_classes = False
    learns = False
    recalls = False

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        check_fraction('drop', drop)
        self.drop = float(drop)

    def combine(self, values: Tensor, labels: Tensor | None) -> Tensor:
        r"""Return what it says.

        Args:
            values: Of the members that were not left out, (M, N, C, \*S).
            labels: Classes (N, \*S), −1 where there is none; None unless ``reads_labels``.
        """
        raise NotImplementedError(
            f'{type(self).__name__} does not say how it combines. Mend: a method combine(self, '
            'values, labels)'
        )

    def build(self, values: Sequence[Tensor]) -> str:
        """Make the parts that only shapes decide; return what was made, in words."""
        return ''

    def forward(self, values: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        r"""Return what it says of the members' tensors.

        Args:
            values: One (N, C, \*S) a member; another size is resized to that of the first.
            labels: Classes (N, \*S), −1 where there is none.
        """
        stack, kept = alike(values), self.kept(len(values))
        if len(kept) < len(stack):  # by a list of indices a GPU would have to wait for the CPU
            stack = torch.stack([stack[k] for k in kept])
        return self.combine(stack, labels)

    def recall(self, tap: str, said: Tensor, repeated: list[int]) -> Tensor:
        r"""Return what it says where it ``recalls``; the others never come here.

        Args:
            tap: Name of the tap.
            said: What the student says of the batch, (N, C, \*S).
            repeated: The places of images that the step before held as well.
        """
        raise NotImplementedError(
            f'{type(self).__name__} does not say what it recalls. Mend: a method recall(self, tap, '
            'said, repeated)'
        )

    def kept(self, members: int) -> list[int]:
        """Draw which members are not left out."""
        if not self.drop or not self.training:
            return list(range(members))
        kept = [k for k, x in enumerate(torch.rand(members).tolist()) if x >= self.drop]
        return kept or [int(torch.randint(members, ()))]


def alike(values: Sequence[Tensor]) -> Tensor:
    """Stack tensors, those of another size resized to that of the first one.

    Raises:
        ValueError: They differ in more than size.
        TypeError: A tap gave several tensors.

    >>> alike([torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 2, 2)]).shape
    torch.Size([2, 1, 2, 4, 4])
    """
    if not all(isinstance(x, Tensor) for x in values):
        raise TypeError('a tap that gives several tensors cannot be combined. Mend: one of them')
    first = values[0]
    shapes = ', '.join(map(shape_of, values))
    if any(x.dim() != first.dim() or x.shape[:2] != first.shape[:2] for x in values):
        raise ValueError(
            f'members that differ in more than size cannot be combined: {shapes}. Mend: taps of '
            'one shape, such as class logits'
        )
    same = [x if x.shape == first.shape else _resized(x, first) for x in values]
    return torch.stack(same)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    if x.dim() != 4:
        raise ValueError(
            f'only maps (N, C, H, W) are resized, got {shape_of(x)} beside {shape_of(like)}. Mend: '
            'taps of one shape'
        )
    return resize_map(x, like.shape[2:])
