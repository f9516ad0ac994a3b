"""Cosine matching of features, as foundation models are distilled."""

from mmkd.methods.fitnet import TASKS, on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='cosine')
@needs(tasks=TASKS, paper='as foundation models are distilled: UNIC, RADIO, Theia')
def cosine(pair: Pair, weight: float = 1.0, huber: float = 0.0) -> Plan:
    """The student's last features point where the teacher's do: 1 − cos of every place.

    Defaults: weight 1, as ultralytics' for a DINOv3 teacher, whose loss is multiplied by the images
    of a batch as well: its 1 with N of them would be N here. The mixes of UNIC and RADIO are
    ``method='foundation'``.

    Args:
        pair: The pair.
        weight: Of the cosines; of detectors of each level.
        huber: Weight of Huber's penalty (δ = 1) of the same features; 0 leaves it out.
    """
    if not huber:
        loss = dict(type='FeatureMatchingLoss', penalty='cosine')
        return on_features(pair, 'cosine', loss, weight)
    mix = dict(type='FeatureMatchingLoss', penalty=dict(cosine=weight, huber=huber))
    return on_features(pair, 'cosine', mix, 1.0)
