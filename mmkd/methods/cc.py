"""CC: the correlation of images under a kernel."""

from mmkd.methods.fitnet import on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.methods.sp import TASKS
from mmkd.registry import METHODS


@METHODS.register_module(name='cc')
@needs(tasks=TASKS, paper='Peng et al., ICCV 2019, arXiv 1904.01802')
def cc(pair: Pair, weight: float = 100.0) -> Plan:
    """Images of a batch correlate under a Gaussian kernel as they do for the teacher.

    An image is the mean over the places of its last features, as a unit vector. A batch of one
    image has no relation and is refused, several devices are one batch. The trained layers between
    are left out: on the teacher's side they may agree with the student's on a constant.

    Default: the weight is ours. torchdistill's sample has 0.003 of the norm of the differences, not
    its square, over N²; RepDistiller's 0.02 is of another formula under this name.

    Args:
        pair: The pair.
        weight: Of the objective.
    """
    loss = dict(type='BatchSimilarityLoss', kind='cc', pooled=True)
    return on_features(pair, 'cc', loss, weight, regressor=None)
