"""DIST: class probabilities that correlate."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs, of_task
from mmkd.registry import METHODS


@METHODS.register_module(name='dist')
@needs(
    tasks=('segmentation', 'classification'),
    paper='Huang et al., NeurIPS 2022, arXiv 2205.10536',
)
def dist(
    pair: Pair,
    tau: float | None = None,
    inter: float | None = None,
    intra: float | None = None,
    weight: float = 1.0,
) -> Plan:
    """The student's class probabilities correlate with the teacher's, by position and by class.

    Defaults are the authors': of label maps τ, β and γ are 1, of classes of images τ = 4 and β and
    γ are 2 (CIFAR), τ² being in front; their means are ours, except that a class which is constant
    in the batch counts as 1 in their code and is left out here. Their script of label maps has the
    same loss at 0.4 on the auxiliary heads too, which is not here.

    Args:
        pair: The pair.
        tau: Temperature.
        inter: β, of the term by position; None of two classes: 0, since two probabilities always
            correlate by ±1.
        intra: γ, of the term by class.
        weight: Of the objective.
    """
    if inter is None and pair.task.num_classes == 2:
        inter = 0.0
    loss = dict(
        type='DISTLoss',
        tau=of_task(pair, tau, segmentation=1.0, classification=4.0),
        inter=of_task(pair, inter, segmentation=1.0, classification=2.0),
        intra=of_task(pair, intra, segmentation=1.0, classification=2.0),
    )
    return Plan(
        objectives=dict(dist=dict(loss=loss, **pair.on('logits'), weight=weight)),
        taps=dict(logits='auto'),
    )
