"""FT: the student's features, translated, are what an autoencoder keeps of the teacher's."""

from mmkd.methods.fitnet import on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='ft')
@needs(tasks=('segmentation', 'classification'), paper='Kim et al., NeurIPS 2018, arXiv 1802.04977')
def ft(
    pair: Pair,
    weight: float = 500 / (32 * 64) ** 0.5,
    rate: float = 0.5,
    power: int = 1,
    epochs: int = 30,
) -> Plan:
    """The student's last features, translated, are what an autoencoder keeps of the teacher's.

    The autoencoder is fitted to the teacher's features of training images before the first step, by
    mmkd.FitHook.

    Defaults: k = 0.5, and the authors' weight 500 of the mean absolute difference of factors of
    unit norm. Here they have a mean square of 1, √(C P) times the norm of C channels and P places:
    500 / √2048 = 11.0 of the 32 channels and 8×8 places of their CIFAR networks. Of label maps no
    run is known to us, and the same is ours. RepDistiller's 200 is of another loss, which squares
    factors and averages their channels first; mmrazor's is the authors'.

    Args:
        pair: The pair.
        weight: Of the objective.
        rate: k: a factor has k times the teacher's channels.
        power: Of the differences, 1 or 2.
        epochs: How often the autoencoder's fit sees a sample.
    """
    loss = dict(type='FactorTransferLoss', rate=rate, power=power, epochs=epochs)
    plan = on_features(pair, 'ft', loss, weight)
    return Plan(objectives=plan.objectives, taps=plan.taps, hooks=[dict(type='mmkd.FitHook')])
