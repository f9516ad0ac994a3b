"""Roles: how the arguments of a loss arrive."""

from dataclasses import dataclass

ALIKE = ('channels', 'size')


@dataclass(frozen=True)
class Map:
    """A tensor that a tap saw; a list of references, or a glob of members, arrives as a stack.

    Args:
        alike: What ``connectors=dict(<argument>='auto')`` makes equal with the counterpart:
            'channels' by a trained 1×1 convolution, 'size' by a resize, or nothing, ().
        class_logits: Whether it must be the scores of its member's own classes: (N, C, H, W) of a
            segmentor, (N, C) of a classifier.
        tokens: Whether 'auto' takes three axes for tokens (N, L, D).

    Raises:
        ValueError: ``alike`` is no tuple of 'channels' and 'size'.

    >>> Map(alike=('size',))
    Map(alike=('size',), class_logits=False, tokens=False)
    """

    alike: tuple[str, ...] = ALIKE
    class_logits: bool = False
    tokens: bool = False

    def __post_init__(self) -> None:
        """Refuse what no connector makes equal."""
        if not isinstance(self.alike, tuple | list) or not set(self.alike) <= set(ALIKE):
            raise ValueError(
                f'alike of a role must be a tuple of {ALIKE}, got {self.alike!r}. Mend: '
                "alike=('size',), or () for nothing"
            )


@dataclass(frozen=True)
class Many(Map):
    """A list of tensors of any shapes, in place of a stack; nothing of them need be alike."""

    alike: tuple[str, ...] = ()


class Running(Map):
    """Running statistics over several members, in place of a stack of them all.

    :meth:`mmkd.losses.base.Loss.running` makes them; they are updated member by member, so that
    no more than one member's tensor is held.
    """


@dataclass(frozen=True)
class OfBatch:
    """A part of the batch; labels and masks have the size of the student's map.

    Args:
        whole: Whether they arrive at their own size instead.
    """

    whole: bool = False


Role = Map | OfBatch
