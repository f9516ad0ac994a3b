"""MixedSampler: so many images with labels and so many without in each batch."""

import copy
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmkd.datasets.unlabelled import places_of
from mmkd.registry import DATA_SAMPLERS
from mmkd.utils.checks import check_count
from mmkd.utils.seeds import ORDER, derive_seed

Share = int | Sequence[int]


@DATA_SAMPLERS.register_module()
class MixedSampler(Sampler):
    """Each batch holds ``labelled`` images with labels, then ``unlabelled`` without; it never ends.

    Either kind is one stream of its own, in which each image comes once a pass; the order of a pass
    is a function of (seed, pass). Ranks take their shares one after the other, so that the batches
    of all ranks together are those of one process with the sum of the shares. Where training stands
    is a number of samples, so that a resumed run goes on at once and exactly.

    Args:
        dataset: A data set that holds both, such as :class:`mmkd.datasets.WithUnlabelled`; the
            Runner passes it.
        labelled: Images with labels in a batch of one device; a list says it of each rank.
        unlabelled: Images without; the sum is the loader's ``batch_size``.
        seed: Of the order; the Runner passes the run's, None draws one for all ranks.
        shuffle: False takes images in their order.

    Raises:
        ValueError: A share that is no whole number from 0 on, shares of 0 images, a list that does
            not fit the number of ranks, ranks of different sums, no image of a kind that has a
            share.

    >>> from mmkd.datasets import WithUnlabelled
    >>> scenes = dict(type='mmkd.DigitScenes', num_scenes=2)
    >>> images = dict(dataset=dict(type='mmkd.DigitScenes', num_scenes=3, seed=1))
    >>> sampler = MixedSampler(WithUnlabelled(scenes, images), 1, 2, seed=0, shuffle=False)
    >>> stream = iter(sampler)
    >>> [next(stream) for _ in range(6)]
    [0, 2, 3, 1, 4, 2]
    """

    def __init__(
        self,
        dataset: Any,
        labelled: Share,
        unlabelled: Share,
        seed: int | None = None,
        shuffle: bool = True,
    ) -> None:
        self.rank, self.world = get_dist_info()
        self.labelled = _each_rank('labelled', labelled, self.world)
        self.unlabelled = _each_rank('unlabelled', unlabelled, self.world)
        _check_sums(self.labelled, self.unlabelled)
        self.places = places_of(dataset)
        _check_there(self.places, (self.labelled, self.unlabelled), dataset)
        self.seed = sync_random_seed() if seed is None else seed
        self.shuffle, self.size = shuffle, len(dataset)
        self.start, self.positioned = 0, False

    @property
    def batch_size(self) -> int:
        """Images in a batch of one device."""
        return self.labelled[0] + self.unlabelled[0]

    def check_batch_size(self, batch_size: int | None) -> None:
        """Refuse a loader whose batches are cut elsewhere.

        Raises:
            ValueError: Another batch size than the shares' sum.
        """
        if batch_size != self.batch_size:
            raise ValueError(
                f'MixedSampler gives {self.labelled[self.rank]} images with labels and '
                f'{self.unlabelled[self.rank]} without, {self.batch_size} together, but the data '
                f'loader has batch_size={batch_size}. Mend: batch_size={self.batch_size}, or '
                'shares that sum to it'
            )

    def at_positions(self, seed: int) -> 'MixedSampler':
        """Return the sampler that yields (index, position in the training), for this seed."""
        other = copy.copy(self)
        other.seed, other.positioned, other.start = seed, True, 0
        return other

    def skip(self, samples: int) -> None:
        """Start at this rank's sample number ``samples``, counted from the start of training."""
        self.start = samples

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: an endless stream has no epochs."""

    def __len__(self) -> int:
        """Return the size of the data set."""
        return self.size

    def __iter__(self) -> Iterator[Any]:
        """Yield indices in the data set, with positions where they were asked for."""
        orders: list[tuple[int, list[int]]] = [(-1, []), (-1, [])]
        for own in count(self.start):
            step, slot = divmod(own, self.batch_size)
            kind = int(slot >= self.labelled[self.rank])  # 0: with labels
            shares = (self.labelled, self.unlabelled)[kind]
            slot -= kind * self.labelled[self.rank]
            position = step * sum(shares) + sum(shares[: self.rank]) + slot
            turn, place = divmod(position, len(self.places[kind]))
            if orders[kind][0] != turn:
                orders[kind] = turn, self._order(kind, turn)
            index = orders[kind][1][place]
            # two streams, one numbering: no two samples share what their augmentation draws
            yield (index, 2 * position + kind) if self.positioned else index

    def _order(self, kind: int, turn: int) -> list[int]:
        places = self.places[kind]
        if not self.shuffle:
            return places
        seed = derive_seed(self.seed, ORDER, turn, kind)
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
        return [places[i] for i in order.tolist()]


def _each_rank(name: str, share: Share, world: int) -> list[int]:
    """Return the share of every rank."""
    shares: list[int] = [*share] if isinstance(share, list | tuple) else [share] * world  # type: ignore[list-item]
    if len(shares) != world:
        raise ValueError(
            f'{name} of MixedSampler names {len(shares)} shares {shares}, but there are '
            f'{world} ranks. Mend: one share a rank, or a single number for all of them'
        )
    for one in shares:
        check_count(f'{name} of MixedSampler', one, 0)
    return shares


def _check_sums(labelled: list[int], unlabelled: list[int]) -> None:
    sums = [own + others for own, others in zip(labelled, unlabelled, strict=True)]
    if 0 in sums:
        raise ValueError(
            f'MixedSampler(labelled={labelled}, unlabelled={unlabelled}) leaves a batch without '
            'images. Mend: shares above 0'
        )
    if len(set(sums)) > 1:
        raise ValueError(
            f'MixedSampler(labelled={labelled}, unlabelled={unlabelled}): the shares of the ranks '
            f'sum to {sums}, but every rank has one batch_size. Mend: equal sums'
        )


def _check_there(
    places: tuple[list[int], list[int]], shares: tuple[list[int], list[int]], dataset: Any
) -> None:
    words = ('labelled', 'with labels'), ('unlabelled', 'without labels')
    for (name, what), found, share in zip(words, places, shares, strict=True):
        if sum(share) and not found:
            raise ValueError(
                f'MixedSampler({name}={share}), but the {type(dataset).__name__} has no images '
                f"{what}. Mend: dataset=dict(type='mmkd.WithUnlabelled', dataset=…, "
                f'unlabelled=…), or {name}=0'
            )
