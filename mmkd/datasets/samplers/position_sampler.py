"""PositionSampler: an order that is a function of (seed, position) and of nothing else."""

from collections.abc import Iterator
from itertools import count

import torch
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from mmkd.utils.seeds import ORDER, derive_seed


class PositionSampler(Sampler):
    """Yields (index, position) from any position of the training on, at once.

    Ranks take turns in one common stream: this rank's sample number p stands at position g =
    p·world + rank, in pass e = g // size. A pass is a permutation that depends on (seed, e) only,
    so each sample comes once a pass, ranks never meet, and two ranks with batch b see what one
    process with batch 2b sees.

    Args:
        size: samples in the data set.
        seed: the run's seed.
        shuffle: False takes samples in their order.
        length: samples a rank takes in an epoch, where the loop counts epochs; None never ends. The
            last samples of a pass are then filled up from its beginning, as
            ``DefaultSampler(round_up=True)`` does.

    >>> sampler = PositionSampler(3, seed=0, shuffle=False)
    >>> sampler.skip(2)
    >>> stream = iter(sampler)
    >>> [next(stream) for _ in range(3)]
    [(2, 2), (0, 3), (1, 4)]
    """

    def __init__(
        self, size: int, seed: int, shuffle: bool = True, length: int | None = None
    ) -> None:
        self.size, self.seed, self.shuffle, self.length = size, seed, shuffle, length
        self.rank, self.world = get_dist_info()
        self.start = 0
        self.span = size if length is None else length * self.world

    def skip(self, samples: int) -> None:
        """Start at this rank's sample number ``samples``, counted from the start of training."""
        self.start = samples

    def set_epoch(self, epoch: int) -> None:
        """Start at the beginning of an epoch; an endless stream has none."""
        if self.length is not None:
            self.skip(epoch * self.length)

    def __len__(self) -> int:
        """Return the samples a rank takes in an epoch, or the size of the data set."""
        return self.size if self.length is None else self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (index in the data set, position in the common stream)."""
        turn, order = -1, []
        for own in (
            count(self.start)
            if self.length is None
            else range(self.start, self.start + self.length)
        ):
            position = own * self.world + self.rank
            if position // self.span != turn:
                turn = position // self.span
                order = self._order(turn)
            yield order[position % self.span % self.size], position

    def _order(self, turn: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.size))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, ORDER, turn))
        return torch.randperm(self.size, generator=generator).tolist()
