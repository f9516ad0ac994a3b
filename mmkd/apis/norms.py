"""BatchNorm with one image on a device: where it is an error, and whether a run's last batch comes to that."""

import logging
from collections.abc import Iterable
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

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

    >>> has_batch_norm(nn.Sequential(nn.BatchNorm2d(3))), has_batch_norm(nn.Sequential(nn.GroupNorm(1, 3)))
    (True, False)
    """
    return any(isinstance(module, _BatchNorm) and module.training for module in model.modules())


def norm_of_one_value(model: nn.Module) -> str | None:
    """Return the path of a BatchNorm that sees a single value a channel where there is one image; None without any.

    Such are PSPNet's and ASPP's, behind a pooling to 1×1; SyncBN also sees the images of other
    devices.

    >>> norm_of_one_value(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    '2'
    >>> norm_of_one_value(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
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
    """Return what is wrong with one image on a device, as (error, warning); at most one of them is there.

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
    by_epoch, loader = isinstance(runner.train_loop, EpochBasedTrainLoop), runner.train_dataloader
    straddles = any(
        type(hook).__name__ == 'ExactResumeHook' for hook in runner.hooks
    )  # batches over passes
    if isinstance(loader.sampler, InfiniteSampler) or (straddles and not by_epoch):
        return
    found = last_batch_of_one(
        len(loader.dataset), loader.batch_size, loader.drop_last, runner.world_size
    )
    if not found:
        return
    model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
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
    """Return when the last batch of a pass has one image, and the mend; None where it has more, or all have one.

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
