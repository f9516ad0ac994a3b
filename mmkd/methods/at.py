"""AT: attention transfer, where the energy of the features lies."""

from mmkd.methods.fitnet import on_features, on_stages
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs, of_task
from mmkd.registry import METHODS


@METHODS.register_module(name='at')
@needs(
    tasks=('segmentation', 'classification'),
    paper='Zagoruyko et al., ICLR 2017, arXiv 1612.03928',
)
def at(
    pair: Pair,
    weight: float | None = None,
    power: float = 2.0,
    stages: int | None = None,
) -> Plan:
    """The energy of the student's features lies where that of the teacher's does.

    Of label maps that of the last features; of classes of images that of every stage. No channels
    need agree, and nothing is trained beside the student.

    Defaults: the authors' code averages squares over places too, so that its weights grow with the
    P places of a map; here they are weight / P. CIRKD's 10000, beside plain distillation of weight
    1, at 512×1024 and stride 8 is 10000 / 8192 = 1.22. RepDistiller's 1000 at the 8×8 places of
    CIFAR's last stage is 15.6, and a quarter of that at each stage before, which has four times the
    places.

    Args:
        pair: The pair.
        weight: Of the objective; of classes of images of the last stage.
        power: To which features are raised.
        stages: How many maps the backbones give; None: as the configs say. Of classes of images
            alone.
    """
    weight = of_task(pair, weight, segmentation=10000 / 8192, classification=1000 / 64)
    loss = dict(type='AttentionTransferLoss', power=power)
    if pair.kind == 'segmentation':
        pair.refuse_unused('of label maps the last features are read', stages=(stages, None))
        return on_features(pair, 'at', loss, weight)
    return on_stages(pair, 'at', loss, weight, ratio=4, stages=stages)
