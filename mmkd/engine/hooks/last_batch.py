"""LastBatchHook: the images of the last batch come again in this one, before its own."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from mmkd.datasets.seeded import SeededDataset
from mmkd.distiller.members.run import teachers_of
from mmkd.registry import HOOKS
from mmkd.structures.batch import REPEATED
from mmkd.utils.unwrap import unwrap

Data = dict[str, Any]


@HOOKS.register_module()
class LastBatchHook(Hook):
    """Put what the data loader gave in the step before in front of what it gives in this one.

    For teachers of kind ``'last-batch'``, which ``mmkd train`` adds it for; runs without one are
    left alone. The batch of a step is twice that of the data loader, in the first step as large.
    The images come again as they were cut, flipped and coloured, for every position of a map must
    be compared with itself; the loader gives each image once a pass, as ever, and every rank
    repeats its own.

    A resumed run draws the batch before its first one again, which ``ExactResumeHook`` makes
    possible; without it, or where the checkpoint holds nothing of such a teacher, it begins with
    new images alone.

    Raises:
        TypeError: Batches that are no dict with ``data_samples``.
        ValueError: Something changes images after they were put together, or other members know
            them by the iteration: they would not be the same ones again.
    """

    def __init__(self) -> None:
        self._last: Data | None = None

    def before_train(self, runner: Runner) -> None:
        """Refuse what cannot be meant; find the batch before the first one of a resumed run."""
        self._last = None
        teachers = _recalling(runner)
        if not teachers:
            return
        _check(runner, teachers[0].where)
        known = all(one.rule.knows(one.taps) for one in teachers)
        why = _why_anew(teachers[0].rule.ranks, known)
        if runner.iter and known:
            self._last = _batch_before(runner)
        for one in teachers:
            one.rule.led = True
            if self._last is None:
                one.rule.forget()
        if runner.iter and self._last is None:
            runner.logger.warning(
                f'mmkd: {teachers[0].where} begins anew in this resumed run: {why}'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Put the images of the step before in front."""
        teachers = _recalling(runner)
        if not teachers:
            return
        last, self._last = self._last, again(data_batch)
        if last is not None:
            data_batch.update(joined(last, data_batch))
        for one in teachers:
            one.rule.turn()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Learn what all ranks heard where a checkpoint may be written now."""
        teachers = _recalling(runner)
        if teachers and get_world_size() > 1 and _may_save(runner, batch_idx):
            for one in teachers:
                one.rule.gather()


def again(data: Any) -> Data:
    """Return a batch of the data loader as it will come again, its images marked.

    Its samples are copies: a data preprocessor pads the labels of those that it is given.

    >>> from mmengine.structures import BaseDataElement
    >>> data = dict(inputs=[torch.zeros(1)], data_samples=[BaseDataElement()])
    >>> again(data)['data_samples'][0].repeated, 'repeated' in data['data_samples'][0]
    (True, False)

    Raises:
        TypeError: It is no dict with images and samples.
    """
    samples = data.get('data_samples') if isinstance(data, Mapping) else None
    if not samples or 'inputs' not in data:
        raise TypeError(
            f'the data loader gives a {type(data).__name__} without inputs or data_samples, whose '
            'images cannot be told to come again. Mend: a pipeline that packs (PackSegInputs, '
            'PackInputs)'
        )
    copies = copy.deepcopy(samples)
    for sample in copies:
        sample.set_metainfo({REPEATED: True})
    return {**data, 'data_samples': copies}


def joined(first: Data, second: Data) -> Data:
    """Return two batches of the data loader as one.

    >>> joined(dict(inputs=[1], rows=torch.zeros(1, 2)), dict(inputs=[2, 3], rows=torch.ones(2, 2)))
    {'inputs': [1, 2, 3], 'rows': tensor([[0., 0.],
            [1., 1.],
            [1., 1.]])}

    Raises:
        ValueError: Stacked images of different size.
    """
    return {key: _join(key, first[key], second[key]) for key in second}


def _join(key: str, one: Any, other: Any) -> Any:
    if not isinstance(one, Tensor):
        return [*one, *other]
    if one.shape[1:] != other.shape[1:]:
        raise ValueError(
            f'{key} of the last batch is {tuple(one.shape)}, of this one {tuple(other.shape)}: '
            'they cannot be put together. Mend: one size in the pipeline, such as a crop'
        )
    return torch.cat([one, other])


def _why_anew(ranks: int, known: bool) -> str:
    """Return why a resumed run cannot let the last batch come again.

    >>> _why_anew(2, False)
    'the checkpoint holds what 2 ranks said, this run has 1'
    """
    if known:
        return (
            "ExactResumeHook is not there. Mend: custom_hooks=[dict(type='mmkd.ExactResumeHook'), "
            '…]'
        )
    if ranks in (0, get_world_size()):
        return 'the checkpoint holds nothing of it'
    said = f'what {ranks} rank{"s" * (ranks > 1)} said'
    return f'the checkpoint holds {said}, this run has {get_world_size()}'


def _recalling(runner: Runner) -> list[Any]:
    combinations = getattr(unwrap(runner.model), 'combinations', {})
    return [one for one in combinations.values() if one.rule.recalls]


def _check(runner: Runner, where: str) -> None:
    """Refuse what changes images after they were put together.

    Raises:
        ValueError: Names it.
    """
    model = unwrap(runner.model)
    mixing = [type(one).__name__ for one in model.shared_noises.each]
    if getattr(model.data_preprocessor, 'batch_augments', None) is not None:
        mixing.append('batch_augments of the data_preprocessor')
    if mixing:
        raise ValueError(
            f'{where} says what was said of these very images in the step before, but '
            f'{", ".join(mixing)} changes them in every step anew. Mend: leave it out, or augment '
            'in the pipeline of the data set'
        )
    stored = [run.where for run in teachers_of(model.runs) if not run.live]
    if stored:
        raise ValueError(
            f'{where} makes images of the step before come again, of which {", ".join(stored)} '
            'holds nothing in this iteration. Mend: the live teacher; or a run without one of them'
        )


def _batch_before(runner: Runner) -> Data | None:
    """Return what the data loader gave in the last iteration before this run, as it comes again."""
    loop = runner.train_loop
    loader, sampler = loop.dataloader, loop.dataloader.batch_sampler.sampler
    if not isinstance(loader.dataset, SeededDataset):
        return None
    if isinstance(loop, EpochBasedTrainLoop):
        sampler.set_epoch(runner.epoch - 1)
        keys = list(loader.batch_sampler)[-1]
        sampler.set_epoch(runner.epoch)
    else:
        size = loader.batch_size
        sampler.skip((runner.iter - 1) * size)
        keys = next(iter(loader.batch_sampler))
        sampler.skip(runner.iter * size)
    return again(loader.collate_fn([loader.dataset[key] for key in keys]))


def _may_save(runner: Runner, batch_idx: int) -> bool:
    """Return whether a checkpoint may be written after this iteration, alike on every rank."""
    step, loop = runner.iter + 1, runner.train_loop
    if isinstance(loop, EpochBasedTrainLoop):
        ends = batch_idx + 1 == len(loop.dataloader)
    else:
        ends = step == loop.max_iters or step % loop.val_interval == 0
    savers = [one for one in runner.hooks if isinstance(one, CheckpointHook) and not one.by_epoch]
    return ends or any(
        one.every_n_train_iters(runner, one.interval, one.save_begin) for one in savers
    )
