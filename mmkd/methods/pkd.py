"""PKD: features that correlate, whatever their scale."""

from mmkd.methods.fitnet import TASKS, on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='pkd')
@needs(tasks=TASKS, paper='Cao et al., NeurIPS 2022, arXiv 2207.02039')
def pkd(pair: Pair, weight: float = 3.0) -> Plan:
    """Channels of the student's features correlate with the teacher's, over the whole batch.

    Of detectors at every level of the neck, else of the last features. Each channel has mean 0 and
    variance 1 over batch and places, on all devices together; the mean square of what is left is
    twice 1 − Pearson's correlation.

    Defaults: mmrazor's 6 of half the mean square are 3 of the whole one (its 10, for other pairs,
    are 5), summed over levels. Its variance divides by one less than the number n of places, which
    makes its value (n − 1) / n of this, and is that of each device alone. Padding of detection
    batches is part of the statistics, as there.

    Args:
        pair: The pair.
        weight: Of the objective; of detectors of each level.
    """
    return on_features(pair, 'pkd', dict(type='FeatureMatchingLoss', normalise='batch'), weight)
