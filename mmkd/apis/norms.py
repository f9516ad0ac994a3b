"""BatchNorm with one image on a device: where it is an error, and whether a run meets it."""

import logging
from collections.abc import Iterable
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmkd.utils.unwrap import unwrap

_POOLS = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether a model has BatchNorm that is trained.

    >>> [has_batch_norm(nn.Sequential(norm)) for norm in (nn.BatchNorm2d(3), nn.GroupNorm(1, 3))]
    [True, False]
    """
    return any(isinstance(module, _BatchNorm) and module.training for module in model.modules())


def norm_of_one_value(model: nn.Module) -> str | None:
    """Return the path of a BatchNorm to which one image gives one value a channel; None without.

    Such are PSPNet's and ASPP's, behind a pooling to 1×1; SyncBN also sees the images of other
    devices.

    >>> behind = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    >>> norm_of_one_value(nn.Sequential(nn.AdaptiveAvgPool2d(1), *behind))
    '2'
    >>> norm_of_one_value(nn.Sequential(nn.AdaptiveAvgPool2d(2), *behind))
    """
    for path, module in model.named_modules():
        pooled = False
        for name, child in module.named_children() if isinstance(module, nn.Sequential) else ():
            if pooled:
                for inner, norm in child.named_modules():
                    if (
                        isinstance(norm, _BatchNorm)
                        and norm.training
                        and not isinstance(norm, nn.SyncBatchNorm)
                    ):
                        return '.'.join(filter(None, (path, name, inner)))
            pooled = pooled or (
                isinstance(child, _POOLS) and child.output_size in (1, (1,), (1, 1), (1, 1, 1))
            )
    return None


def judge_one_image(
    models: Iterable[nn.Module], when: str, mend: str
) -> tuple[str | None, str | None]:
    """Return (error, warning) of one image on a device; at most one of them is there.

    Args:
        models: What is trained.
        when: When there is one image.
        mend: How to have more of them.
    """
    models = list(models)
    path = next(filter(None, map(norm_of_one_value, models)), None)
    if path is not None:
        return (
            f'{when}, and the BatchNorm {path!r} fails on one value for each channel. {mend}',
            None,
        )
    if any(map(has_batch_norm, models)):
        return None, f'{when}, whose BatchNorm statistics are noise. {mend}'
    return None, None


def check_last_batch(runner: Runner) -> None:
    """Look at what the last batch of each epoch is, before the first one is trained on.

    Args:
        runner: Its train loop is built here, as its ``train`` would do first of all.

    Raises:
        ValueError: The last batch has one image, and the model has a BatchNorm that fails on it.
    """
    loader = runner.train_dataloader
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    # its batches go over the end of a pass
    straddles = any(type(hook).__name__ == 'ExactResumeHook' for hook in runner.hooks)
    if isinstance(loader.sampler, InfiniteSampler) or (straddles and not by_epoch):
        return
    found = last_batch_of_one(
        len(loader.dataset), loader.batch_size, loader.drop_last, runner.world_size
    )
    if not found:
        return
    model: Any = unwrap(runner.model)
    error, warning = judge_one_image(
        model.students.values() if hasattr(model, 'students') else [model], *found
    )
    if error:
        raise ValueError(error)
    if warning:
        print_log(warning, logger='current', level=logging.WARNING)


def last_batch_of_one(
    samples: int, batch_size: int | None, drop_last: bool, processes: int = 1
) -> tuple[str, str] | None:
    """Return when the last batch alone has one image, and the mend; None where that never is.

    >>> last_batch_of_one(6, 5, drop_last=False)[0]
    'the last batch of every pass over the data has one image (6 samples by 5)'
    >>> last_batch_of_one(6, 5, drop_last=True), last_batch_of_one(6, 4, drop_last=False)
    (None, None)
    """
    own = -(-samples // processes)  # samplers fill up the last ones
    if drop_last or not batch_size or batch_size == 1 or own % batch_size != 1:
        return None
    on = f' on each of {processes} processes' if processes > 1 else ''
    return (
        f'the last batch of every pass over the data has one image ({own} samples by '
        f'{batch_size}{on})',
        'Mend: train_dataloader.drop_last=True, or another batch_size',
    )
