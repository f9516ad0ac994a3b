"""WSLD: soft labels that count less where the student is already surer than the teacher."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='wsld')
@needs(tasks=('segmentation', 'classification'), paper='Zhou et al., ICLR 2021, arXiv 2102.00650')
def wsld(pair: Pair, tau: float = 2.0, weight: float = 2.5) -> Plan:
    """Plain distillation, which counts less where the student knows the label better already.

    Defaults are the authors' of ImageNet: τ = 2, weight 2.5, which their code also multiplies by
    τ², labels at 1. Their mean over images is ours; of label maps, for which the paper has no
    numbers, it is the mean over pixels with a label.

    Args:
        pair: The pair.
        tau: Temperature of the soft labels.
        weight: Of the objective.
    """
    loss = dict(type='WeightedSoftLabelsLoss', tau=tau)
    on = pair.on('logits', labels='batch.labels')
    return Plan(
        objectives=dict(wsld=dict(loss=loss, **on, weight=weight)), taps=dict(logits='auto')
    )
