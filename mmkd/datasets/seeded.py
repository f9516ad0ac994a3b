"""Data whose order and augmentation are functions of (seed, position) and of nothing else."""

import hashlib
import random
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

# One stream of random numbers for each use, so that no two uses of a seed ever meet.
ORDER, SAMPLE, TRAIN_STEP, VALIDATION = range(4)


def derive_seed(seed: int, *key: int) -> int:
    """Mix a seed and a key of non-negative integers into a 63-bit seed; neighbouring keys give unrelated seeds.

    >>> derive_seed(0, 1, 2) == derive_seed(0, 1, 2), derive_seed(0, 1, 2) == derive_seed(0, 2, 1)
    (True, False)
    """
    return int(
        np.random.SeedSequence(entropy=seed, spawn_key=key).generate_state(1, np.uint64)[0]
        >> np.uint64(1)
    )


def seed_everything(seed: int, *key: int, devices: bool = True) -> None:
    """Seed torch, numpy and random from (seed, key); ``devices=False`` leaves torch's generators of devices alone."""
    value = derive_seed(seed, *key)
    if devices:
        torch.manual_seed(value)
    else:  # a tenth of the time: manual_seed notes a traceback for every kind of device that was not used yet
        torch.default_generator.manual_seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    random.seed(value)


def name_seed(seed: int, name: str) -> int:
    """Mix a seed and a name into a 56-bit seed.

    >>> name_seed(0, 'a.png') == name_seed(0, 'a.png'), name_seed(0, 'a.png') == name_seed(1, 'a.png')
    (True, False)
    """
    return int.from_bytes(hashlib.blake2b(f'{seed}/{name}'.encode(), digest_size=7).digest(), 'big')


def image_name(info: Mapping, user: str, mend: str = '') -> str:
    """Return by which name an image is known wherever the data lie: the last three parts of its path, or its index.

    Args:
        info: What its pipeline or its data sample knows of it: ``img_path``, else ``sample_idx``.
        user: What needs the name, for the message.
        mend: A further way out, for the message.

    Raises:
        ValueError: It has no name.

    >>> image_name(dict(img_path='/data/cifar10/train/cat/0001.jpg'), 'LabelFlip')
    'train/cat/0001.jpg'
    """
    path = info.get('img_path')
    if path:
        return '/'.join(str(path).replace('\\', '/').split('/')[-3:])
    if info.get('sample_idx') is None:
        raise ValueError(
            f"{user} gives an image the same noise always, but this one has neither 'img_path' nor "
            f"'sample_idx' in its metainfo ({sorted(info)}). Mend: meta_keys=('img_path', …) "
            f'where the '
            f'pipeline packs its inputs{mend}'
        )
    return str(info['sample_idx'])


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
        """Start at sample number ``samples`` of this rank, counted from the beginning of training."""
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


class SeededDataset(Dataset):
    """A data set whose pipeline draws from (seed, position), in whatever process it runs.

    Covers torch, numpy and random, and so mmcv's and mmseg's transforms and the second tries of
    mmengine's BaseDataset. A transform that keeps a generator of its own is not reached.

    Args:
        dataset: any map-style data set; its attributes (``metainfo``, …) show through.
        seed: the run's seed.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """Fetch sample ``key = (index, position)``."""
        index, position = key
        seed_everything(self.seed, SAMPLE, position, devices=False)  # samples are made on the CPU
        return self.dataset[index]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """Show the data set's own attributes."""
        # __getitems__ of the data set must not show through: it would be called with (index,
        # position) pairs
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)


def seeded_loader(loader: DataLoader, seed: int, by_epoch: bool = False) -> DataLoader:
    """Return the same loader with order and augmentation as functions of (seed, position).

    Batch size, workers, collation, pinning, prefetching and worker initialisation are carried over.

    Args:
        loader: with mmengine's or torch's plain samplers.
        seed: the run's seed; it replaces the sampler's own.
        by_epoch: False makes one endless stream, whose batches straddle passes; True ends after
            each epoch.

    Raises:
        TypeError: a loader, sampler or batch sampler whose order is not known here.
    """
    if type(loader) is not DataLoader:
        raise TypeError(
            f'ExactResumeHook rebuilds torch.utils.data.DataLoader, got {type(loader).__name__}. '
            f'{_MEND}'
        )
    if type(loader.batch_sampler) is not BatchSampler:
        raise TypeError(
            'ExactResumeHook needs the plain BatchSampler with a fixed batch_size, got '
            f'{type(loader.batch_sampler).__name__}. {_MEND}'
        )
    sampler, batches = loader.batch_sampler.sampler, loader.batch_sampler
    dataset: Any = (
        loader.dataset.dataset if isinstance(loader.dataset, SeededDataset) else loader.dataset
    )
    length = -(-len(dataset) // get_dist_info()[1]) if by_epoch else None
    device = getattr(
        loader, 'pin_memory_device', ''
    )  # on its way out of torch, which warns where it is passed
    optional: dict[str, Any] = dict(pin_memory_device=device) if device else {}
    return DataLoader(
        SeededDataset(dataset, seed),
        batch_size=batches.batch_size,
        drop_last=batches.drop_last,
        sampler=PositionSampler(len(dataset), seed, _shuffles(sampler), length),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        prefetch_factor=loader.prefetch_factor,
        multiprocessing_context=loader.multiprocessing_context,
        persistent_workers=loader.persistent_workers
        and by_epoch,  # an endless stream starts its workers once anyway
        generator=torch.Generator().manual_seed(seed),
        **optional,
    )


_MEND = (
    "Use sampler=dict(type='InfiniteSampler', shuffle=True) and batch_size, or take "
    'ExactResumeHook out of '
    'custom_hooks and train without exact resume'
)


def _shuffles(sampler: Any) -> bool:
    if type(sampler) in (InfiniteSampler, DefaultSampler, PositionSampler):
        return sampler.shuffle
    if type(sampler) is SequentialSampler:
        return False
    if (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    ):
        return True
    raise TypeError(
        f'ExactResumeHook does not know the order of {type(sampler).__name__} (it knows '
        f'InfiniteSampler, '
        f'DefaultSampler, SequentialSampler and RandomSampler without replacement). {_MEND}'
    )
