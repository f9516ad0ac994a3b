"""RKD: distances and angles between images."""

from mmkd.methods.fitnet import on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.methods.sp import TASKS
from mmkd.registry import METHODS


@METHODS.register_module(name='rkd')
@needs(tasks=TASKS, paper='Park et al., CVPR 2019, arXiv 1904.05068')
def rkd(pair: Pair, distance: float = 25.0, angle: float = 50.0) -> Plan:
    """Images of a batch lie as far apart, and at the angles, as they do for the teacher.

    An image is the mean over the places of its last features. Of two images the one distance over
    its mean is 1, so that a batch wants three or more; one is refused, several devices are one
    batch.

    Defaults: the authors' 25 of distances and 50 of angles, whose means over all pairs and triples
    are ours. They were chosen for classes of images. The means of scenes of one kind are alike, and
    distances are divided by their mean: there these weights drown the labels, and a hundredth of
    them still harms (docs/results.md). ``mmkd doctor`` says how hard they pull.

    Args:
        pair: The pair.
        distance: Weight of the distances, 0: none.
        angle: Weight of the angles, 0: none.
    """
    plans = [
        on_features(
            pair,
            f'rkd_{name}',
            dict(type='BatchSimilarityLoss', kind=f'rkd-{name}', pooled=True),
            weight,
            regressor=None,
        )
        for name, weight in (('distance', distance), ('angle', angle))
        if weight
    ]
    if not plans:
        pair.fail('distance and angle are both 0, which leaves nothing. Mend: one of them above 0')
    return Plan(
        objectives={name: one for plan in plans for name, one in plan.objectives.items()},
        taps=plans[0].taps,
    )
