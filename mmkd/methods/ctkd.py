"""CTKD: distillation whose temperature learns to make it harder."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs, of_task
from mmkd.registry import METHODS

BEGIN = 0.0245  # of the reversal: the first value of the authors, (1 − cos(π / 10)) / 2


@METHODS.register_module(name='ctkd')
@needs(tasks=('segmentation', 'classification'), paper='Li et al., AAAI 2023, arXiv 2211.16231')
def ctkd(
    pair: Pair,
    lowest: float = 1.0,
    span: float = 20.0,
    length: int | None = None,
    kind: str = 'global',
    weight: float | None = None,
    task_weight: float | None = None,
) -> Plan:
    """Plain distillation at a temperature that is trained against the student, little by little.

    Defaults are the authors': temperatures from 1 to 21, which begin at 15.6, θ being 1; their
    gradient is reversed by a factor that rises as half a cosine from 0.02 to 1, over a 24th of the
    run (their first 10 of 240 epochs of CIFAR, once an epoch; here in every iteration). Of classes
    of images 0.9 of it beside 0.1 of the labels, τ² being inside; of label maps, for which the
    paper has no numbers, weight 1 beside the labels at 1.

    The authors' weight decay acts on θ too, as does that of any optimizer here:
    ``paramwise_cfg=dict(custom_keys={'ctkd.loss.raw': dict(decay_mult=0.)})`` keeps it away.

    ``kind='instance'`` is the paper's other form, of which its code was not released: a temperature
    for each image, which two layers say. It begins where the global one does.

    Args:
        pair: The pair.
        lowest: What the temperature stays above.
        span: It stays below the lowest and so much.
        length: Iterations over which the reversal rises: a 24th of the run.
        kind: 'global', one temperature, or 'instance', one an image.
        weight: Of the objective.
        task_weight: Of the student's own losses.
    """
    rise = dict(
        target='ctkd.loss.reversal',
        type='cosine',
        start=BEGIN,
        end=1.0,
        length=_share(pair) if length is None else length,
    )
    loss = dict(type='LearnedTemperatureKLLoss', lowest=lowest, span=span)
    if kind != 'global':
        loss['kind'] = kind
    weight = of_task(pair, weight, segmentation=1.0, classification=0.9)
    return Plan(
        objectives=dict(ctkd=dict(loss=loss, **pair.on('logits'), weight=weight)),
        taps=dict(logits='auto'),
        task_weight=of_task(pair, task_weight, classification=0.1),
        hooks=[dict(type='mmkd.ScheduleHook', schedules=[rise])],
    )


def _share(pair: Pair) -> int:
    if pair.iterations is None:
        pair.fail(
            'length is a 24th of the run, whose length nothing says here. Mend: '
            "method=dict(type='ctkd', length=…), or train_cfg=dict(max_iters=…)"
        )
    return max(1, pair.iterations // 24)
