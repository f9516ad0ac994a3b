"""NKD: soft labels, and the other classes after they are normalised."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='nkd')
@needs(tasks=('segmentation', 'classification'), paper='Yang et al., ICCV 2023, arXiv 2303.13005')
def nkd(pair: Pair, gamma: float = 1.5, tau: float = 1.0, weight: float = 1.0) -> Plan:
    """Cross-entropy of the label, as sure as the teacher is, and of the normalised others.

    Defaults are the authors' γ = 1.5 and τ = 1, labels at 1. Their mean over images is ours; of
    label maps, for which the paper has no numbers, it is the mean over pixels with a label.

    Args:
        pair: The pair.
        gamma: Of the other classes.
        tau: Temperature of the other classes.
        weight: Of the objective.
    """
    loss = dict(type='NormalizedKLLoss', gamma=gamma, tau=tau)
    on = pair.on('logits', labels='batch.labels')
    return Plan(objectives=dict(nkd=dict(loss=loss, **on, weight=weight)), taps=dict(logits='auto'))
