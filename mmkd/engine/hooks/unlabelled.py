"""UnlabelledHook: says how many images have labels, and refuses a run to which some are nothing."""

import sys
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmkd.datasets.samplers.mixed_sampler import MixedSampler
from mmkd.datasets.unlabelled import places_of
from mmkd.registry import HOOKS
from mmkd.structures.batch import is_labelled
from mmkd.utils.unwrap import unwrap

ASKS = 'reduce_mean'  # what a module of mmdet or mmseg imports that takes a mean over ranks


@HOOKS.register_module()
class UnlabelledHook(Hook):
    """Look after a training in which some images have no labels; any other is left alone.

    The log says how many there are of each kind, and every step logs what it held as ``labelled``
    and ``unlabelled``.

    Raises:
        TypeError: The model is no Distiller, and learns from labels alone.
        ValueError: Images without labels that no objective reads; no labels where something needs
            them; shares that do not sum to the batch size; SyncBN, or another module that asks
            every rank, where these may pass different numbers of times through the student.

    Attributes:
        images: How many have labels, and how many have none; None before a training, and of one
            whose images all have labels.
    """

    priority = 'LOW'  # after the loader was rebuilt

    def __init__(self) -> None:
        self.images: tuple[int, int] | None = None

    def before_train(self, runner: Runner) -> None:
        """Count, tell, and refuse what cannot be meant."""
        loader = runner.train_dataloader
        own, others = places_of(loader.dataset)
        if not others:
            return
        self.images = len(own), len(others)
        model = unwrap(runner.model)
        check_reader(model, *self.images)
        sampler = getattr(loader.batch_sampler, 'sampler', None)
        if isinstance(sampler, MixedSampler):
            sampler.check_batch_size(loader.batch_size)
        _check_waiting(model, sampler)
        runner.logger.info(f'mmkd: {tell_images(*self.images, sampler)}')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Log how many images of this step have labels."""
        if self.images is None:
            return
        samples = data_batch['data_samples']
        own = sum(map(is_labelled, samples))
        runner.message_hub.update_scalar('train/labelled', own)
        runner.message_hub.update_scalar('train/unlabelled', len(samples) - own)


def tell_images(own: int, others: int, sampler: Any = None) -> str:
    """Return how many images have labels, in all and in a batch.

    >>> tell_images(92, 275)
    '92 images with labels and 275 without'
    """
    told = f'{own} images with labels and {others} without'
    if not isinstance(sampler, MixedSampler):
        return told
    shares = (sampler.labelled, sampler.unlabelled)
    a, b = (each[0] if len(set(each)) == 1 else each for each in shares)
    return f'{told}; {a} and {b} in a batch{" of each rank" if get_world_size() > 1 else ""}'


def check_reader(model: Any, own: int, others: int) -> None:
    """Refuse a model to which images without labels, or a set without any, are of no use.

    Args:
        model: What is trained.
        own: How many images have labels.
        others: How many have none.

    Raises:
        TypeError: It is no Distiller.
        ValueError: Nothing reads what has no labels, or something needs labels that nobody has.
    """
    objectives = getattr(model, 'objectives', None)
    if objectives is None:
        raise TypeError(
            f'{others} training images have no labels, and a {type(model).__name__} learns from '
            "labels alone. Mend: model=dict(type='mmkd.Distiller', …), with a teacher that speaks "
            'of them; or a data set without them'
        )
    reading = [name for name, one in objectives.items() if not one.skips_unlabelled]
    if others and not reading:
        passed = f' ({", ".join(objectives)} pass them over)' if len(objectives) else ''
        raise ValueError(
            f'{others} training images have no labels, and no objective learns from them{passed}. '
            'Mend: a teacher, and an objective without labels, such as dict(loss=dict(type='
            "'PixelWiseKLLoss'), on='logits'); or a data set without them"
        )
    needing = [f'objective {name!r}' for name, one in objectives.items() if one.reads_annotations]
    needing += [one.where for one in model.combinations.values() if one.rule.reads_labels]
    if _learns_labels(model):
        needing.insert(0, "the students' own losses")
    if not own and needing:
        raise ValueError(
            f'none of the {others} training images has labels, but labels are needed by '
            f'{", ".join(needing)}. Mend: a labelled set beside them '
            "(type='mmkd.WithUnlabelled'); or task_weight=0 and objectives that read no labels"
        )


def _learns_labels(model: Any) -> bool:
    """Return whether the students' own losses ever count: a level may mute them at the moment."""
    return bool(model.task_weight) or any(model.runs[name].learns_labels for name in model.students)


def _check_waiting(model: Any, sampler: Any) -> None:
    """Refuse students whose ranks would wait for each other: they pass once or twice."""
    if get_world_size() == 1 or not _learns_labels(model):
        return
    modules = [one for student in model.students.values() for one in student.modules()]
    waiting = next(filter(_waits, modules), None)
    if waiting is None:
        return
    if isinstance(sampler, MixedSampler):
        pairs = zip(sampler.labelled, sampler.unlabelled, strict=True)
        if len({(own > 0, others > 0) for own, others in pairs}) == 1:
            return
    norm = isinstance(waiting, nn.SyncBatchNorm)
    raise ValueError(
        f'{"SyncBN" if norm else type(waiting).__name__} waits for every rank, but here a rank '
        'whose batch holds images with labels and without passes twice through the student, and '
        "another one once. Mend: sampler=dict(type='mmkd.MixedSampler', labelled=…, unlabelled=…) "
        f'with shares above 0 on every rank{"; or BN in place of SyncBN" * norm}'
    )


def _waits(module: nn.Module) -> bool:
    """Return whether a module asks other ranks: many heads of mmdet take means over them."""
    kinds = [sys.modules.get(kind.__module__) for kind in type(module).__mro__]
    return isinstance(module, nn.SyncBatchNorm) or any(hasattr(one, ASKS) for one in kinds)
