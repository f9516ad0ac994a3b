"""NFD: features without the scale and offset of their channels."""

from mmkd.methods.fitnet import TASKS, on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='nfd')
@needs(tasks=TASKS, paper='Normalised feature distillation, 2022, arXiv 2207.05256')
def nfd(pair: Pair, weight: float = 1.0) -> Plan:
    """The student's last features are the teacher's, each channel of each image normalised first.

    Channels have mean 0 and variance 1 over the places of an image, so that no few large ones own
    the loss. The variance divides by the number of places.

    Defaults: weight 1, the paper having none; a mean over everything. A map of one place, such as a
    detector's last level of a small image, has nothing to tell and adds 0.

    Args:
        pair: The pair.
        weight: Of the objective; of detectors of each level.
    """
    return on_features(pair, 'nfd', dict(type='FeatureMatchingLoss', normalise='sample'), weight)
