"""KSANC: logits, squeezed stages, and a critic with categories."""

from collections.abc import Sequence
from typing import Any

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, adam, needs, of_task
from mmkd.registry import METHODS


@METHODS.register_module(name='ksanc')
@needs(
    tasks=('segmentation', 'classification'),
    paper='Shu et al., 2019, arXiv 1904.05100',
    cost='1.16 to 1.42 × (student + teacher)',
)
def ksanc(
    pair: Pair,
    logit: float = 0.1,
    squeezed: float = 0.1,
    adversarial: float = 0.1,
    stages: int | None = None,
    positions: int | None = None,
    channels: Sequence[int] | None = None,
    task_weight: float | None = None,
) -> Plan:
    """The student matches logits and what attention squeezes out of every stage; a critic compares.

    The critic has to name the class as well, and has an optimizer of its own: Adam, lr 1e-3.

    The weights are ours, 0.1 each: the paper's are not known to us. Without labels of the student's
    own for classes of images, as in the equation; beside them for label maps. The equation, read
    literally, tells the student to hide the class: here both sides name it.

    Args:
        pair: The pair.
        logit: Weight of the squared difference of logits.
        squeezed: Weight of the squeezed stages, inside that loss.
        adversarial: Weight of the critic's term.
        stages: Maps of the backbones that are squeezed, from the first on.
        positions: Places of label maps that the critic is shown in each step; None shows all.
        channels: Widths of the critic.
        task_weight: Of the student's own losses.
    """
    number = pair.stages(given=stages)
    names = [f'stage{n}' for n in range(1, number + 1)]
    valid: dict[str, Any] = dict(mask='batch.valid')
    critic: dict[str, Any] = dict(type='CategoryCritic')
    if channels is not None:
        critic['channels'] = channels
    shown = {} if positions is None else dict(positions=positions)
    return Plan(
        objectives=dict(
            logit=dict(loss=dict(type='LogitMSELoss'), **pair.on('logits', **valid), weight=logit),
            squeezed=dict(
                loss=dict(
                    type='SqueezedKnowledgeLoss', num_classes=pair.num_classes, loss_weight=squeezed
                ),
                reads=dict(
                    student=[f'{pair.student}.{name}' for name in names],
                    teacher=[f'{pair.teacher}.{name}' for name in names],
                    student_global=f'{pair.student}.pooled',
                    teacher_global=f'{pair.teacher}.pooled',
                    labels='batch.labels',
                ),
            ),
            adversarial=dict(
                loss=dict(
                    type='AdversarialLoss',
                    mode='bce',
                    critic=critic,
                    l1=1e-5,
                    l2=1e-4,
                    adversarial_sample=0.1,
                    **shown,
                ),
                **pair.on('logits', labels='batch.labels', **valid),
                weight=adversarial,
            ),
        ),
        taps=dict(
            logits='auto',
            pooled='auto:feature',
            **{name: f'auto:stages[{n}]' for n, name in enumerate(names)},
        ),
        task_weight=of_task(pair, task_weight, classification=0.0),
        optimizers=dict(critic=adam(1e-3)),
    )
