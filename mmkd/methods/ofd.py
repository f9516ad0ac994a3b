"""OFD: the overhaul of feature distillation."""

from mmkd.methods.fitnet import on_stages
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs, of_task
from mmkd.registry import METHODS


@METHODS.register_module(name='ofd')
@needs(tasks=('segmentation', 'classification'), paper='Heo et al., ICCV 2019, arXiv 1904.01866')
def ofd(
    pair: Pair,
    weight: float | None = None,
    regressor: str | dict = 'auto:conv-bn',
    stages: int | None = None,
) -> Plan:
    """The student's stages are the teacher's, but where a ReLU would cut both.

    The paper reads features before the ReLU of a stage. Stages are found after it where there is
    one: nothing is negative there, and the margin 0. Taps of your own may be before it
    (``taps=dict(stage1='…')``), such as of a normalisation. Between them is the authors' 1×1
    convolution with batch normalisation.

    Defaults: the authors sum over C channels and P places, over 1000, and halve the weight at each
    stage down from the last. P is four times as large there and C half as large, so that all have
    one weight of a mean: C · P / 1000 of the last, which is 16.4 of the 256 channels and 8×8 places
    of CIFAR's WRN-40-4, the default of classes of images (100 of ImageNet's 2048 and 7×7). It would
    be 16777 of 2048 channels and 64×128 places, for which no run is known to us: of label maps 10,
    which is FitNet's and ours here.

    Args:
        pair: The pair.
        weight: Of the objective of each stage.
        regressor: Connector of the student; 'auto' has a convolution alone, where channels differ.
        stages: How many maps the backbones give; None: as the configs say.
    """
    weight = of_task(pair, weight, segmentation=10.0, classification=256 * 64 / 1000)
    loss = dict(type='PartialL2Loss')
    return on_stages(pair, 'ofd', loss, weight, regressor, stages=stages)
