"""FittedPart: what is fitted to a teacher's features before training, and frozen from then on."""

import torch
from torch import Tensor, nn

# What a part belongs to, a digest each, and what it is called where it is not this one.
ORIGIN = {
    'teacher': 'another teacher (other weights, precision or fuse_bn)',
    'tap': 'another tap of the teacher',
    'pooling': "another pooling of the teacher's map (sizes of the maps, or channels)",
}
DIGEST = 32  # bytes of a SHA-256


class FittedPart(nn.Module):
    """A part of a loss on the teacher's side: buffers that are NaN until they are fitted.

    :class:`mmkd.FittingHook` fits it before the first step. It is in the checkpoint, so that a
    resumed run fits nothing again, and remembers which teacher, tap and pooling it belongs to.

    The loss that holds it gives it as ``fitted_part``.

    Args:
        buffers: What is fitted, NaN as yet; the fingerprint comes after them.

    Attributes:
        pooling: By which factor the teacher's map is averaged first.
        called: How messages call it.
        useless: What it is elsewhere, for messages.
        anew: How one is fitted anew, for messages.
    """

    pooling = 1
    called = 'part'
    useless = 'it means nothing here'
    anew = 'FittingHook without load_from or resume'
    fingerprint: Tensor

    def __init__(self, **buffers: Tensor) -> None:
        super().__init__()
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
        self.register_buffer('fingerprint', torch.zeros(len(ORIGIN), DIGEST, dtype=torch.uint8))
        self._known: tuple | None = None

    # ------------------------------------------------------------------ what one defines

    @property
    def channels(self) -> int:
        """Channels of the teacher's map."""
        raise NotImplementedError

    def needed(self) -> list[Tensor]:
        """Return the buffers that are NaN until they are fitted."""
        raise NotImplementedError

    def refuse_damage(self) -> None:
        """Refuse numbers that are there and cannot serve."""
        raise NotImplementedError

    def places(self, image: Tensor) -> int:
        """Return of how many places of a map (1, C, *S) one sample is."""
        return 1

    def sample(
        self, image: Tensor, mask: Tensor | None, number: int, generator: torch.Generator
    ) -> Tensor:
        r"""Return samples of a map, on the CPU.

        Args:
            image: Map (1, C, \*S) of one image.
            mask: Bool (1, \*S), True where a position counts.
            number: Of the samples, at most.
            generator: Of the places that they are from.
        """
        raise NotImplementedError

    def join(self, samples: list[Tensor]) -> Tensor:
        """Return the samples of all images as one tensor."""
        return torch.cat(samples)

    def fit(self, samples: Tensor, seed: int = 0) -> dict[str, float]:
        """Fit it; no random numbers but those of the seed are drawn.

        Returns:
            What is reported of it.
        """
        raise NotImplementedError

    def draw(self, generator: torch.Generator) -> None:
        """Draw numbers that belong to no teacher, to measure what they cost."""
        raise NotImplementedError

    def tell(self, report: dict[str, float]) -> str:
        """Return a report in words."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what all have

    @property
    def fitted(self) -> bool:
        """Whether it is fitted.

        Looks at the buffers only after they were written to, since looking synchronises.

        Raises:
            ValueError: They are there and cannot serve.
        """
        needed = self.needed()
        state = tuple((id(buffer), buffer._version) for buffer in needed)
        if self._known != state and not any(bool(buffer.isnan().all()) for buffer in needed):
            self.refuse_damage()
            self._known = state
        return self._known == state

    def check(self, fingerprint: Tensor) -> None:
        """Refuse to serve another teacher, tap or pooling than it was fitted to.

        One written by hand has no fingerprint, and serves whom it is given to.

        Args:
            fingerprint: As the buffer: three digests in the order of ``ORIGIN``.

        Raises:
            ValueError: Says which of the three differs.
        """
        if not self.fingerprint.any():
            return
        both = zip(ORIGIN, self.fingerprint.cpu(), fingerprint.cpu(), strict=True)
        differs = [what for what, mine, yours in both if not torch.equal(mine, yours)]
        if differs:
            raise ValueError(
                f'this {self.called} was fitted to {" and ".join(ORIGIN[d] for d in differs)}, so '
                f'{self.useless}. Mend: give back the {", ".join(differs)} that it was fitted '
                f'with, or fit one anew: {self.anew}'
            )
