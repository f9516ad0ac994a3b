"""PKT: which images are likely neighbours."""

from mmkd.methods.fitnet import on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.methods.sp import TASKS
from mmkd.registry import METHODS


@METHODS.register_module(name='pkt')
@needs(tasks=TASKS, paper='Passalis and Tefas, ECCV 2018, arXiv 1803.10837')
def pkt(pair: Pair, weight: float = 30000 / 64) -> Plan:
    """Images of a batch are as likely neighbours of each other as they are for the teacher.

    An image is the mean over the places of its last features; the cosines of a row are compared as
    a distribution. A batch of one image has no relation and is refused, several devices are one
    batch.

    Default: RepDistiller's 30000 averages over the N² pairs; here each row is summed, so that the
    value does not fall with the batch: weight · N, 30000 / 64 for its batches of 64.

    Args:
        pair: The pair.
        weight: Of the objective.
    """
    loss = dict(type='BatchSimilarityLoss', kind='pkt', pooled=True)
    return on_features(pair, 'pkt', loss, weight, regressor=None)
