"""Stop at the first NaN, while the last good checkpoint is still the last one."""

import math
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmkd.registry import HOOKS
from mmkd.utils.checkpoints import latest_checkpoint
from mmkd.utils.unwrap import unwrap

_ADVICE = (
    'Lower the learning rate or the weight of what is named here, clip gradients (clip_grad in '
    'optim_wrapper), or train in float32; check the labels and images of this batch'
)


def non_finite(values: dict[str, Any]) -> dict[str, float]:
    """Return the entries that are NaN or infinite, in order, as nan or inf.

    What is not a number is passed over. Costs one device synchronisation however many entries there
    are, as long as all are finite.

    Args:
        values: log variables: tensors, numbers, anything.

    >>> non_finite({'loss': torch.tensor(2.), 'pixel.loss': torch.tensor(float('nan')), 'lr': 0.1})
    {'pixel.loss': nan}
    """
    bad = {
        key
        for key, value in values.items()
        if isinstance(value, int | float) and not math.isfinite(value)
    }
    tensors = {key: value.detach() for key, value in values.items() if isinstance(value, Tensor)}
    if tensors:
        device = next(iter(tensors.values())).device
        fine = torch.stack(
            [value.isfinite().all().to(device) for value in tensors.values()]
        ).tolist()
        bad.update(key for key, good in zip(tensors, fine, strict=True) if not good)
    return {
        key: math.nan if _has_nan(value) else math.inf
        for key, value in values.items()
        if key in bad
    }


def _has_nan(value: Any) -> bool:
    return bool(value.isnan().any()) if isinstance(value, Tensor) else math.isnan(value)


@HOOKS.register_module()
class NaNStopHook(Hook):
    """Raise FloatingPointError as soon as a logged value, or a weight to be saved, is NaN or Inf.

    Log keys are ``<objective>.loss`` and ``<objective>.critic_loss`` for objectives and mmengine's
    own for the task (``decode.loss_ce``). The hook runs before the checkpoint hook, so no
    checkpoint of the bad step is written. A finite loss whose gradient was not finite has already
    spoilt the weights: these are looked at before each save.

    Raises:
        FloatingPointError: names the objective, the iteration, the checkpoint that stays and what
            to try.
    """

    priority = 'HIGH'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Look at the values that the train step returned."""
        bad = non_finite(outputs or {})
        if bad:
            # the total is bad because a part is: name the part
            parts = {key: value for key, value in bad.items() if key != 'loss'} or bad
            raise FloatingPointError(
                f'{_describe(parts)} at iteration {runner.iter + 1}. {_mend(runner)}'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at the weights that are about to be written."""
        model = unwrap(runner.model)
        learned = {name for name, _ in model.named_parameters()}
        for name, value in checkpoint['state_dict'].items():
            # a buffer may hold an Inf on purpose (an attention mask), never a NaN
            if (
                isinstance(value, Tensor)
                and value.is_floating_point()
                and not (value.isfinite() if name in learned else ~value.isnan()).all()
            ):
                raise FloatingPointError(
                    f'the weights became NaN or Inf before iteration {runner.iter + 1} ended '
                    f'(first: {name}); this checkpoint is not written. {_mend(runner)}'
                )


def _describe(bad: dict[str, float]) -> str:
    """Return ``objective 'pixel' (pixel.loss = nan)`` for each bad value."""
    names = []
    for key, value in bad.items():
        objective, _, kind = key.rpartition('.')
        owner = f'objective {objective!r} ' if objective and kind in ('loss', 'critic_loss') else ''
        names.append(f'{owner}({key} = {value})' if owner else f'{key} = {value}')
    return 'NaN or Inf: ' + ', '.join(names)


def _mend(runner: Runner) -> str:
    # in out_dir, where one is given
    folders = [hook.folder for hook in runner.hooks if hasattr(hook, 'folder')]
    last = latest_checkpoint(folders[0] if folders else runner.work_dir)
    stays = (
        f'{last} stays as the last good checkpoint (--resume goes on from it)'
        if last
        else 'No checkpoint had been written yet'
    )
    return f'{stays}. {_ADVICE}'
