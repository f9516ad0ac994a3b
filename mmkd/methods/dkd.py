"""DKD: the label against the rest, and the rest among themselves."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs, of_task
from mmkd.registry import METHODS


@METHODS.register_module(name='dkd')
@needs(tasks=('segmentation', 'classification'), paper='Zhao et al., CVPR 2022, arXiv 2203.08679')
def dkd(
    pair: Pair, tau: float = 4.0, alpha: float = 1.0, beta: float = 8.0, weight: float = 1.0
) -> Plan:
    """KL in two: of the label against all other classes, and of the others among themselves.

    Defaults are the authors' of CIFAR: τ = 4, α = 1, β = 8 (they take 1 to 10 by pair; of ImageNet
    τ = 1, β = 0.5), labels at 1. Their mean over images is ours; of label maps, for which the paper
    has no numbers, it is the mean over pixels with a label. Of classes of images the weight rises
    over a twelfth of the run: theirs does over the first 20 of 240 epochs, epoch by epoch.

    Args:
        pair: The pair.
        tau: Temperature.
        alpha: Of the label against the rest.
        beta: Of the rest.
        weight: Of the objective.
    """
    loss = dict(type='DecoupledKLLoss', tau=tau, alpha=alpha, beta=beta)
    on = pair.on('logits', labels='batch.labels')
    return Plan(
        objectives=dict(dkd=dict(loss=loss, **on, weight=weight)),
        taps=dict(logits='auto'),
        warm_up=of_task(pair, None, classification=20 / 240),
    )
