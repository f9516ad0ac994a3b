"""What a vocabulary belongs to: one tap of a frozen teacher, pooled as the loss pools it."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.losses.base import Place
from mmkd.losses.quest.maps import pool_map, positions
from mmkd.structures.batch import Batch, read_batch


@dataclass(frozen=True)
class Source:
    """The tap that an objective's words are fitted to.

    Args:
        loss: The objective's loss: it holds the vocabulary, and knows the pooling.
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
        """Find the source of a loss's words.

        Raises:
            ValueError: The loss reads what is no teacher's, or what a connector has changed.
        """
        reference = place.reads['teacher']
        member, _, tap = reference.partition('.')
        teachers = [name for name, run in place.runs.items() if run.role == 'teacher']
        if member not in teachers:
            raise ValueError(
                f'objective {place.objective!r} reads teacher={reference!r}, which is no teacher '
                f'(teachers: {teachers}): words fitted to features that go on changing mean '
                'nothing. Mend: a frozen teacher'
            )
        if 'teacher' in place.connectors:
            raise ValueError(
                f'objective {place.objective!r} has a connector of the teacher, but its vocabulary '
                "is fitted to the tap itself. Mend: connectors=dict(student='auto')"
            )
        masked = place.reads.get('mask') == 'batch.valid'
        return cls(loss, place.objective, place.runs[member], tap, masked)

    @property
    def path(self) -> str:
        """Path of the tap in the teacher."""
        return self.run.taps.paths[self.tap].text

    def check(self) -> None:
        """Refuse words that were fitted to another source.

        Raises:
            ValueError: Names the objective and what differs.
        """
        try:
            self.loss.vocabulary.check(self.fingerprint(digest_of(self.run.model)))
        except ValueError as error:
            raise ValueError(f'objective {self.objective!r}: {error}') from error

    def fingerprint(self, weights: bytes) -> Tensor:
        """Return SHA-256 (3, 32) of the teacher's weights, the tap's path and the pooling.

        Args:
            weights: The first of them, of :func:`digest_of`.
        """
        pooling = f'{self.loss.pooling}, {self.loss.vocabulary.words.shape[1]} channels'
        others = [hashlib.sha256(text.encode()).digest() for text in (self.path, pooling)]
        return torch.tensor([list(digest) for digest in (weights, *others)], dtype=torch.uint8)

    def vectors(self, seen: Mapping[str, Any], batch: Batch) -> Iterator[Tensor]:
        """Yield the vectors (P, C) of each image of a batch.

        Args:
            seen: What the teacher's taps saw of it.
            batch: The batch.
        """
        pooled = pool_map(seen[self.tap], self.loss.pooling)
        valid = read_batch(batch, 'valid', pooled) if self.masked else [None] * len(pooled)
        for image, mask in zip(pooled.split(1), valid, strict=True):
            yield positions(image, None if mask is None else mask[None])


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
