"""What a fitted part belongs to: one tap of a frozen teacher."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.losses.base import Place


@dataclass(frozen=True)
class Source:
    """The tap that the part of an objective's loss is fitted to.

    Args:
        loss: The objective's loss, a :class:`mmkd.losses.fitted.contract.FittedLoss`.
        objective: The objective's name.
        run: The teacher at work.
        tap: Name of its tap.
        masked: Whether positions that ``batch.valid`` leaves out are left out here too.
    """

    loss: Any
    objective: str
    run: Any
    tap: str
    masked: bool

    @classmethod
    def of(cls, loss: Any, place: Place) -> 'Source':
        """Find the source of a loss's part.

        Raises:
            ValueError: The loss reads what is no teacher's, or what a connector has changed.
        """
        reference = place.reads['teacher']
        member, _, tap = str(reference).partition('.')
        runs = place.runs.items()
        teachers = [name for name, run in runs if run.role == 'teacher' and run.frozen]
        if member not in teachers:
            raise ValueError(
                f'objective {place.objective!r} reads teacher={reference!r}, which is no teacher '
                f'(frozen teachers: {teachers}): {loss.fits} fitted to features that go on '
                'changing mean nothing. Mend: a frozen teacher'
            )
        if 'teacher' in place.connectors and not loss.resized:
            raise ValueError(
                f'objective {place.objective!r} has a connector of the teacher, but its '
                f'{loss.fits} are fitted to the tap itself. Mend: '
                "connectors=dict(student='auto')"
            )
        masked = place.reads.get('mask') == 'batch.valid'
        return cls(loss, place.objective, place.runs[member], tap, masked)

    @property
    def path(self) -> str:
        """Path of the tap in the teacher."""
        return self.run.taps.paths[self.tap].text

    def check(self) -> None:
        """Refuse a part that was fitted to another source.

        Raises:
            ValueError: Names the objective and what differs.
        """
        try:
            self.loss.part.check(self.fingerprint(self.run.digest()))
        except ValueError as error:
            raise ValueError(f'objective {self.objective!r}: {error}') from error

    def fingerprint(self, weights: bytes) -> Tensor:
        """Return SHA-256 (3, 32) of the teacher's weights, the tap's path and the loss's shapes.

        Args:
            weights: The first of them, of :func:`digest_of`.
        """
        others = [hashlib.sha256(x.encode()).digest() for x in (self.path, self.loss.shapes())]
        return torch.tensor([list(digest) for digest in (weights, *others)], dtype=torch.uint8)


def digest_of(model: nn.Module) -> bytes:
    """Return the SHA-256 of a model's names, types, shapes and numbers.

    >>> digest_of(nn.Identity()).hex()[:8]  # of nothing
    'e3b0c442'
    """
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(f'{key} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.digest()
