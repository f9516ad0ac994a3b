"""What a loss keeps that is fitted to a frozen teacher before training, and frozen then."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

_DIGEST = 32  # bytes of a SHA-256


class FittedPart(nn.Module):
    """Buffers, or parameters without gradient, that are NaN until they are fitted.

    They are in every checkpoint, beside a fingerprint of the teacher, the tap and the shapes that
    they were fitted to, so that no other teacher is compared by them.

    Args:
        buffers: What is fitted, NaN as yet; in the state dict the fingerprint comes after them.

    Attributes:
        noun: How errors call it.
        origin: What it belongs to, a digest each, and what that is called where it is not this one.
        anew: How another one is fitted.

    Examples:
        >>> class Scale(FittedPart):
        ...     def __init__(self):
        ...         super().__init__(scale=torch.full((2,), torch.nan))
        >>> part = Scale()
        >>> part.fitted, part.scale.fill_(1.).sum(), part.fitted
        (False, tensor(2.), True)
    """

    noun: str = 'part'
    origin: Mapping[str, str] = MappingProxyType(
        {
            'teacher': 'another teacher (other weights, precision or fuse_bn)',
            'tap': 'another tap of the teacher',
            'channels': 'another number of channels',
        }
    )
    anew: str = 'FitHook without load_from or resume'
    fingerprint: Tensor

    def __init__(self, **buffers: Tensor) -> None:
        super().__init__()
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
        digests = torch.zeros(len(self.origin), _DIGEST, dtype=torch.uint8)
        self.register_buffer('fingerprint', digests)
        self._known: tuple | None = None

    def numbers(self) -> list[Tensor]:
        """Return what must be fitted."""
        held = [*self.parameters(), *self.buffers()]
        return [x for x in held if x.is_floating_point()]

    @property
    def fitted(self) -> bool:
        """Whether everything is there.

        Looks at the numbers only after they were written to, since looking synchronises.

        Raises:
            ValueError: They are there and cannot serve, such as NaN or Inf among them.
        """
        needed = self.numbers()
        state = tuple((id(x), x._version) for x in needed)
        if self._known != state and not any(bool(x.isnan().all()) for x in needed):
            self.refuse_damaged()
            self._known = state
        return self._known == state

    def refuse_damaged(self) -> None:
        """Refuse numbers that cannot serve.

        Raises:
            ValueError: NaN or Inf among them.
        """
        refuse_non_finite(self.numbers(), f'the {self.noun}', self.anew)

    def draw(self, generator: torch.Generator) -> None:
        """Draw numbers that belong to no teacher, to measure what they cost.

        Args:
            generator: Of the numbers, on the CPU.
        """
        for x in self.numbers():
            x.copy_(torch.randn(x.shape, generator=generator))

    def check(self, fingerprint: Tensor) -> None:
        """Refuse to serve another teacher or tap than it was fitted to.

        What was written by hand has no fingerprint, and serves whom it is given to.

        Args:
            fingerprint: As the buffer: the digests in the order of ``origin``.

        Raises:
            ValueError: Says which of them differs.
        """
        if not self.fingerprint.any():
            return
        both = zip(self.origin, self.fingerprint.cpu(), fingerprint.cpu(), strict=True)
        differs = [what for what, mine, yours in both if not torch.equal(mine, yours)]
        if differs:
            others = ' and '.join(self.origin[what] for what in differs)
            raise ValueError(
                f'this {self.noun} was fitted to {others}, so its numbers mean nothing here. Mend: '
                f'give back the {", ".join(differs)} that it was fitted with, or fit one anew: '
                f'{self.anew}'
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Refuse a damaged part; one of NaN is not fitted yet, shapes are torch's matter."""
        self._refuse_damaged_state(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _refuse_damaged_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        found = [x for key, x in state_dict.items() if key.startswith(prefix)]
        found = [x for x in found if isinstance(x, Tensor) and x.is_floating_point()]
        if not any(bool(x.isnan().all()) for x in found):
            where = f'the {self.noun} {prefix.rstrip(".")!r} of this checkpoint'
            refuse_non_finite(found, where, self.anew)


def refuse_non_finite(tensors: list[Tensor], where: str, anew: str) -> None:
    """Refuse NaN and Inf.

    Raises:
        ValueError: Says how many numbers there are.

    >>> refuse_non_finite([torch.tensor([torch.nan, 1.])], 'it', 'another')
    Traceback (most recent call last):
    ValueError: it: 1 of its 2 numbers are NaN or Inf. Mend: copy the checkpoint again, or: another
    """
    bad = sum(int((~x.isfinite()).sum()) for x in tensors)
    if bad:
        total = sum(x.numel() for x in tensors)
        raise ValueError(
            f'{where}: {bad} of its {total} numbers are NaN or Inf. Mend: copy the checkpoint '
            f'again, or: {anew}'
        )
