"""PS-KD: labels that are softened by what the student said an epoch ago, more and more."""

from typing import Any

from mmkd.methods.pair import Pair
from mmkd.methods.plan import ITSELF, Plan, needs
from mmkd.registry import METHODS
from mmkd.utils.checks import check_choice, check_share

EPOCHS = 300  # of a run whose epochs nothing tells
MOMENTUM = 0.999


@METHODS.register_module(name='psk')
@needs(ITSELF, ('segmentation', 'classification'), 'Kim et al., PS-KD, ICCV 2021')
def psk(
    pair: Pair,
    alpha: float = 0.8,
    kind: str = 'past',
    steps: int | None = None,
    momentum: float = MOMENTUM,
    length: int | None = None,
    weight: float = 1.0,
    task_weight: float = 0.0,
) -> Plan:
    """Cross-entropy with (1 − a) of the label and a of the student's own past, a rising to 0.8.

    In iteration i of n it is a = 0.8 (i + 1) / n; the authors' rises once an epoch, to the same.
    They keep what the student said of every image in the epoch before, in train mode; of label maps
    that is too much, so here a copy of the student as it was an epoch or two ago says it, in eval
    mode, of the very images of this step; ``kind='ema'`` takes the running mean of its weights.
    Their first epoch has labels alone, here a is near 0.

    It takes the place of the student's own loss, so ``task_weight`` is 0: auxiliary heads, and
    weights of classes, are left out with it.

    Args:
        pair: The student.
        alpha: The last share of the past.
        kind: 'past' or 'ema'.
        steps: How many steps of the optimizer 'past' lies back at least: a 300th of the run,
            where no gradients are added up over iterations.
        momentum: Of 'ema', from 0 to below 1.
        length: Iterations over which the share rises: the run.
        weight: Of the objective.
        task_weight: Of the student's own losses.
    """
    length = pair.iterations if length is None else length
    if length is None:
        pair.fail(
            'length is that of the run, which nothing says here. Mend: '
            "method=dict(type='psk', length=…), or train_cfg=dict(max_iters=…)"
        )
    pair.check_count('length', length, 'length=…, the iterations of the run')
    check_share('alpha', alpha)
    check_choice('kind', kind, ('past', 'ema'))
    own = _past(pair, length, steps, momentum) if kind == 'past' else _mean(pair, steps, momentum)
    objective = dict(
        loss=dict(type='MixedTargetCELoss', alpha=alpha),
        reads=dict(student=f'{pair.student}.logits', teacher='past.logits', labels='batch.labels'),
        weight=weight,
    )
    rise = dict(
        target='psk.loss.alpha',
        type='linear',
        start=alpha / length,
        end=alpha,
        length=max(1, length - 1),
    )
    return Plan(
        objectives=dict(psk=objective),
        taps=dict(logits='auto'),
        teachers=dict(past=dict(kind=kind, of=pair.student, **own)),
        task_weight=task_weight,
        # a share of 0 stays: labels alone
        hooks=[dict(type='mmkd.ScheduleHook', schedules=[rise])] if alpha else [],
    )


def _past(pair: Pair, length: int, steps: int | None, momentum: float) -> dict[str, Any]:
    """Return the options of the copy that lies back."""
    why = "kind='past' takes no running mean"
    pair.refuse_unused(why, ", or kind='ema'", momentum=(momentum, MOMENTUM))
    if steps is None:
        return dict(steps=max(1, (pair.iterations or length) // EPOCHS))
    pair.check_count('steps', steps, 'steps=…, those of an epoch')
    return dict(steps=steps)


def _mean(pair: Pair, steps: int | None, momentum: float) -> dict[str, Any]:
    """Return the options of the copy that is a running mean."""
    why = "kind='ema' follows every step"
    pair.refuse_unused(why, ", or kind='past'", steps=(steps, None))
    known = isinstance(momentum, int | float) and not isinstance(momentum, bool)
    if not known or not 0 <= momentum < 1:
        pair.fail(
            f'momentum must be a number from 0 to below 1, got {momentum!r}. Mend: '
            f'momentum={MOMENTUM}'
        )
    return dict(momentum=momentum)
