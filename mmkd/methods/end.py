"""EnD: the mean of an ensemble."""

from typing import Any

from mmkd.methods.pair import Pair
from mmkd.methods.plan import SEVERAL, Plan, needs, of_task
from mmkd.registry import METHODS

TASKS = ('segmentation', 'classification')


@METHODS.register_module(name='end')
@needs(SEVERAL, TASKS, 'Malinin et al., ICLR 2020, arXiv 1905.00076')
def end(
    pair: Pair,
    temperature: float = 1.0,
    weight: float | None = None,
    task_weight: float | None = None,
) -> Plan:
    """The student learns the mean prediction of several teachers, and forgets how they disagree.

    Defaults: weight 10 beside the labels of label maps, as of plain distillation; of classes of
    images weight 1 and no labels, as in the paper. The authors' code minimises the cross-entropy,
    which is this plus the entropy of the mean, and divides by the number of classes too.

    Args:
        pair: The pair.
        temperature: T of both sides.
        weight: Of the objective.
        task_weight: Of the student's own losses.
    """
    loss = dict(type='EnsembleKLLoss', temperature=temperature)
    weight = of_task(pair, weight, segmentation=10.0, classification=1.0)
    return of_ensemble(pair, 'end', loss, weight, task_weight)


def of_ensemble(
    pair: Pair, name: str, loss: dict, weight: float, task_weight: float | None, **more: Any
) -> Plan:
    """Return one objective on the logits of student and all teachers."""
    connected = dict(connectors=dict(student='auto')) if pair.kind == 'segmentation' else {}
    return Plan(
        objectives={name: dict(loss=loss, **pair.on_all('logits'), **connected, weight=weight)},
        taps=dict(logits='auto'),
        task_weight=of_task(pair, task_weight, classification=0.0),
        **more,
    )
