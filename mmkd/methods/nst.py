"""NST: the set of places that channels are active at."""

from mmkd.methods.fitnet import on_features, on_stages
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.methods.sp import TASKS
from mmkd.registry import METHODS


@METHODS.register_module(name='nst')
@needs(tasks=TASKS, paper='Huang and Wang, 2017, arXiv 1707.01219')
def nst(pair: Pair, weight: float = 50.0, stages: int | None = None) -> Plan:
    """The channels of the student are active at places where some of the teacher's are.

    As sets: whichever channel it is, and however many there are. Of label maps those of the last
    features, of classes of images those of every stage.

    Default: RepDistiller's 50 of each stage, whose normaliser is ours; of label maps it is taken
    over.

    Args:
        pair: The pair.
        weight: Of the objective, of classes of images of each stage.
        stages: How many maps the backbones give; None: as the configs say. Of classes of images
            alone.
    """
    loss = dict(type='ChannelGramLoss', kind='nst')
    if pair.kind == 'segmentation':
        pair.refuse_unused('of label maps the last features are read', stages=(stages, None))
        return on_features(pair, 'nst', loss, weight, regressor=None)
    return on_stages(pair, 'nst', loss, weight, regressor=None, stages=stages)
