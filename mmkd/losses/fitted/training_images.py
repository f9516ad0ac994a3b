"""The images that parts are fitted to: those of the training, as they are when tested."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, SequentialSampler, Subset

from mmkd.utils.checks import check_count


def training_images(
    cfg: Config,
    dataloader: dict | None = None,
    images: int | None = None,
    seed: int = 0,
    hook: str = 'VocabularyHook',
) -> DataLoader:
    """Return a loader of the run's training images under its validation pipeline, each once.

    Args:
        cfg: The run's config: ``train_dataloader.dataset`` with the pipeline of
            ``val_dataloader.dataset``.
        dataloader: ``dict(dataset=…, batch_size=1, num_workers=0)`` in place of those two; its
            sampler is not used.
        images: How many, evenly spaced; None takes all.
        seed: Of the workers.
        hook: Who asks, for the error.

    Raises:
        ValueError: The config has no such data sets.
    """
    if dataloader is None:
        dataloader = _of_run(cfg, hook)
    dataset = DATASETS.build(dataloader['dataset'])
    if images is not None:
        check_count('images', images, 1)
        images = min(images, len(dataset))
        dataset = Subset(dataset, [index * len(dataset) // images for index in range(images)])
    # The run's own sampler would deal the images out to all ranks, and one rank fits.
    given = dict(
        dataset=dataset,
        sampler=SequentialSampler(dataset),
        generator=torch.Generator().manual_seed(seed),
    )
    return Runner.build_dataloader({**dataloader, **given}, seed=seed)


def _of_run(cfg: Config, hook: str) -> dict:
    train, val = (cfg.get(key) or {} for key in ('train_dataloader', 'val_dataloader'))
    pipeline = _pipeline(val.get('dataset') or {})
    if pipeline is None or 'dataset' not in train:
        raise ValueError(
            'what is fitted beforehand is fitted to train_dataloader.dataset under the pipeline of '
            'val_dataloader.dataset, but the config lacks one of them. Mend: '
            f'{hook}(dataloader=dict(dataset=…, batch_size=1, num_workers=2)), or both data loaders'
        )
    return {**val, 'dataset': _with_pipeline(train['dataset'], pipeline)}


def _pipeline(dataset: dict) -> Any:
    """Return the pipeline of a data set, inside whatever wraps it; None for none."""
    inner = dataset.get('dataset') or next(iter(dataset.get('datasets') or []), None)
    return dataset.get('pipeline') if inner is None else _pipeline(inner)


def _with_pipeline(dataset: dict, pipeline: Any) -> dict:
    """Return a data set with another pipeline, taken out of what repeats or mixes it."""
    if 'dataset' in dataset:
        return _with_pipeline(dataset['dataset'], pipeline)
    if 'datasets' in dataset:
        parts = [_with_pipeline(part, pipeline) for part in dataset['datasets']]
        return {**dataset, 'datasets': parts}
    return {**dataset, 'pipeline': pipeline}
