"""Data whose order and augmentation are functions of (seed, position) and of nothing else."""

from typing import Any

import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
)

from mmkd.datasets.samplers.mixed_sampler import MixedSampler
from mmkd.datasets.samplers.position_sampler import PositionSampler
from mmkd.utils.seeds import SAMPLE, seed_everything

# whose order is known, of those that a config names
SAMPLERS = (InfiniteSampler, DefaultSampler, MixedSampler)


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

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the data set's own attributes: hooks give it another pipeline while it is read."""
        if name in ('dataset', 'seed'):
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)


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
        ValueError: shares of a MixedSampler that do not sum to the batch size.
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
    dataset: Any = loader.dataset
    if isinstance(dataset, SeededDataset):
        dataset = dataset.dataset
    length = -(-len(dataset) // get_dist_info()[1]) if by_epoch else None
    # On its way out of torch, which warns where it is passed.
    device = getattr(loader, 'pin_memory_device', '')
    optional: dict[str, Any] = dict(pin_memory_device=device) if device else {}
    return DataLoader(
        SeededDataset(dataset, seed),
        batch_size=batches.batch_size,
        drop_last=batches.drop_last,
        sampler=_positioned(sampler, len(dataset), seed, length, batches.batch_size),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        prefetch_factor=loader.prefetch_factor,
        multiprocessing_context=loader.multiprocessing_context,
        # an endless stream starts its workers once anyway
        persistent_workers=loader.persistent_workers and by_epoch,
        generator=torch.Generator().manual_seed(seed),
        **optional,
    )


_MEND = (
    "Use sampler=dict(type='InfiniteSampler', shuffle=True) and batch_size, or take "
    'ExactResumeHook out of custom_hooks and train without exact resume'
)


def _positioned(
    sampler: Any, size: int, seed: int, length: int | None, batch_size: int
) -> PositionSampler | MixedSampler:
    """Return the sampler of the same kind that yields positions as well."""
    if type(sampler) is not MixedSampler:
        return PositionSampler(size, seed, _shuffles(sampler), length)
    if length is not None:
        raise TypeError(
            'MixedSampler never ends, and EpochBasedTrainLoop counts passes. Mend: '
            "train_cfg=dict(type='IterBasedTrainLoop', max_iters=…)"
        )
    sampler.check_batch_size(batch_size)
    return sampler.at_positions(seed)


def _shuffles(sampler: Any) -> bool:
    if type(sampler) in (*SAMPLERS, PositionSampler):
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
        'InfiniteSampler, DefaultSampler, MixedSampler, SequentialSampler and RandomSampler '
        f'without replacement). {_MEND}'
    )
