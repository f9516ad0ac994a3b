"""Proxy-Dirichlet: the distribution of an ensemble, by a target Dirichlet."""

from mmkd.methods.end import TASKS, of_ensemble
from mmkd.methods.pair import Pair
from mmkd.methods.plan import SEVERAL, Plan, needs, of_task
from mmkd.registry import METHODS


@METHODS.register_module(name='end2-proxy')
@needs(SEVERAL, TASKS, 'Ryabinin et al., NeurIPS 2021, arXiv 2105.06987')
def end2_proxy(
    pair: Pair,
    direction: str = 'reverse',
    offset: float = 1.0,
    weight: float | None = None,
    task_weight: float | None = None,
) -> Plan:
    """The student's Dirichlet is drawn to one as precise as the teachers agree.

    It needs neither annealing nor clipped gradients. Its test keeps the offset:
    mmkd.UncertaintyMetric(outputs='dirichlet', offset=1.0).

    Defaults: the authors' reverse divergence and offset; weight 10 beside the labels of label maps,
    as of plain distillation; of classes of images weight 1 and no labels. The authors' code has the
    same loss up to a constant of the student, without a cap on the precision.

    Args:
        pair: The pair.
        direction: 'reverse' or 'forward'.
        offset: Added to the student's concentrations.
        weight: Of the objective.
        task_weight: Of the student's own losses.
    """
    loss = dict(type='ProxyDirichletLoss', direction=direction, offset=offset)
    weight = of_task(pair, weight, segmentation=10.0, classification=1.0)
    return of_ensemble(pair, 'proxy', loss, weight, task_weight)
