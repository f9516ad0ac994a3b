"""ICKD: how each channel correlates with the others."""

from mmkd.methods.fitnet import on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.methods.sp import TASKS
from mmkd.registry import METHODS


@METHODS.register_module(name='ickd')
@needs(tasks=TASKS, paper='Liu et al., ICCV 2021')
def ickd(pair: Pair, weight: float = 2.5, regressor: str | dict = 'auto:conv-bn') -> Plan:
    """Each channel of the student correlates with the others as it does in the teacher.

    Channels of the last features, over the places of each image, behind a 1×1 convolution and
    normalisation, as the authors'.

    Default: the weight 2.5 of the authors' code for CIFAR, whose normaliser is ours; of label maps
    it is taken over.

    Args:
        pair: The pair.
        weight: Of the objective.
        regressor: Connector of the student; 'auto' is one convolution, where channels differ.
    """
    loss = dict(type='ChannelGramLoss', kind='ickd')
    return on_features(pair, 'ickd', loss, weight, regressor)
