"""DSD: which classes overlap, its category-wise similarity."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='dsd')
@needs(tasks=('segmentation',), paper='Feng et al., TIP 2021')
def dsd(pair: Pair, weight: float = 10 / 2048**2, tau: float = 4.0, pool: int = 2) -> Plan:
    """Any two classes of the student overlap as they do in the teacher: their logits over places.

    The category-wise similarity; the pixel-wise one, of attention maps of several layers, is not
    in it.

    Default: CIRKD's comparison has 10 of a value that falls with the squared number P of pooled
    places; here it does not, and the weight is 10 / P² for the 32×64 of its crops. That is little:
    the similarity alone wants more, such as ``weight=0.1``, which was not tried.

    Args:
        pair: The pair.
        weight: Of the objective.
        tau: Temperature of the distributions over places.
        pool: Side of the windows that are averaged first.
    """
    objective = dict(
        loss=dict(type='ChannelGramLoss', kind='dsd', tau=tau, pool=pool),
        **pair.on('logits'),
        connectors=dict(teacher='auto'),
        weight=weight,
    )
    return Plan(objectives=dict(dsd=objective), taps=dict(logits='auto'))
