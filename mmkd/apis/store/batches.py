"""The batches of a training, one by one, without the training."""

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmkd.datasets.seeded import seeded_loader
from mmkd.engine.hooks import ExactResumeHook
from mmkd.engine.hooks.exact_resume import LOOPS
from mmkd.structures.batch import Batch
from mmkd.utils.seeds import TRAIN_STEP, seed_everything


class TrainingBatches:
    """The batches that a run would train on, by iteration, as its model sees them.

    Order, augmentations and what the data preprocessor draws are those of the training, which
    ExactResumeHook makes functions of the seed and the iteration.

    Args:
        runner: Of the config.
        model: Its Distiller.

    Raises:
        KeyError: The config says nothing of training.
        TypeError: A loop, loader or sampler whose order is not known.
        ValueError: No seed is set, or ExactResumeHook is not among the hooks.
    """

    def __init__(self, runner: Runner, model: Any) -> None:
        if runner.cfg.get('train_dataloader') is None:
            raise KeyError(
                "the config has no 'train_dataloader' and 'train_cfg', so there are no iterations "
                'to store'
            )
        self.seed = runner._randomness_cfg.get('seed')
        exact = any(isinstance(hook, ExactResumeHook) for hook in runner.hooks)
        if not exact or self.seed is None:
            raise ValueError(
                'what is stored is known by its iteration, so data must be a function of seed and '
                f'iteration, and {"no seed is set" if exact else "ExactResumeHook is left out"}. '
                "Mend: custom_hooks=[dict(type='mmkd.ExactResumeHook'), …] and "
                'randomness=dict(seed=0)'
            )
        loop = runner.train_loop
        if type(loop) not in LOOPS:
            raise TypeError(
                f'iterations are stored of IterBasedTrainLoop and EpochBasedTrainLoop, got '
                f'{type(loop).__name__}'
            )
        self.by_epoch = type(loop) is EpochBasedTrainLoop
        self.loader: Any = seeded_loader(loop.dataloader, self.seed, self.by_epoch)
        self.length: int = loop.max_iters
        self.model = model

    def between(self, first: int, end: int) -> Iterator[Batch]:
        """Yield the batches of the iterations from ``first`` to below ``end``."""
        drawn = self._of_epochs(first, end) if self.by_epoch else self._of_stream(first, end)
        for iteration, data in drawn:
            # after the batch is fetched, before it is preprocessed: as in a training
            seed_everything(self.seed, TRAIN_STEP, get_rank(), iteration)
            found = self.model.data_preprocessor(data, True)
            task = self.model.task
            yield Batch(found['inputs'], found.get('data_samples'), task.ignore_index, task)

    def _of_stream(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
        self.loader.sampler.skip(first * self.loader.batch_size)
        if first < end:
            yield from zip(range(first, end), self.loader, strict=False)

    def _of_epochs(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
        length = len(self.loader)
        for epoch in range(first // length, -(-end // length)):
            self.loader.sampler.set_epoch(epoch)
            for number, data in enumerate(self.loader):
                iteration = epoch * length + number
                if iteration >= end:
                    return
                if iteration >= first:
                    yield iteration, data
