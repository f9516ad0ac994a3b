"""AB: the student's neurons are on where the teacher's are."""

from mmkd.methods.fitnet import on_stages
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs, of_task
from mmkd.registry import METHODS


@METHODS.register_module(name='ab')
@needs(tasks=('segmentation', 'classification'), paper='Heo et al., AAAI 2019, arXiv 1811.03233')
def ab(
    pair: Pair,
    weight: float | None = None,
    margin: float = 1.0,
    regressor: str | dict = 'auto:conv-bn',
    stages: int | None = None,
) -> Plan:
    """The student's neurons are on where the teacher's are, by a margin, at every stage.

    The authors initialise a student so, without labels, and train it by distillation afterwards;
    here both are at once. Their way is a run with ``task_weight=0.`` and a second one whose student
    has the first one's as its checkpoint. They read features before a ReLU. Stages are found after
    it where there is one, which leaves the teacher's signs as they are; the student's features pass
    a 1×1 convolution with batch normalisation, as theirs do where channels differ, and have signs
    again.

    Defaults: margin 1. The authors sum over C channels and P places, times 3 / 1000 over the
    images, and halve the weight at each stage down from the last. P is four times as large there
    and C half as large, so that all have one weight of a mean: 3 C · P / 1000 of the last, which is
    49.2 of the 256 channels and 8×8 places of CIFAR's WRN-22-4, the default of classes of images.
    Of label maps no run is known to us: 10, which is FitNet's and ours here.

    Args:
        pair: The pair.
        weight: Of the objective of each stage.
        margin: By how much the student's features must be on the teacher's side of 0.
        regressor: Connector of the student; 'auto' has a convolution alone, where channels differ.
        stages: How many maps the backbones give; None: as the configs say.
    """
    weight = of_task(pair, weight, segmentation=10.0, classification=3 * 256 * 64 / 1000)
    loss = dict(type='ActivationBoundaryLoss', margin=margin)
    return on_stages(pair, 'ab', loss, weight, regressor, stages=stages)
