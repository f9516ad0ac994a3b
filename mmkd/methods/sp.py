"""SP: images that are alike to the teacher are alike to the student."""

from mmkd.methods.fitnet import on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS

TASKS = ('segmentation', 'classification')


@METHODS.register_module(name='sp')
@needs(tasks=TASKS, paper='Tung and Mori, ICCV 2019, arXiv 1907.09682')
def sp(pair: Pair, weight: float = 3000 / 64) -> Plan:
    """Images of a batch are as like each other as they are to the teacher, map by map.

    The last features of each image are one vector, place by place; channels and places of the two
    members may differ. A batch of one image has no relation and is refused, several devices are one
    batch.

    Default: RepDistiller's 3000, verified by the paper's author there, divides by the N² pairs;
    here the squared differences of a row are summed, so that the value does not fall with the
    batch: weight · N, 3000 / 64 for its batches of 64.

    Args:
        pair: The pair.
        weight: Of the objective.
    """
    return on_features(
        pair, 'sp', dict(type='BatchSimilarityLoss', kind='sp'), weight, regressor=None
    )
