"""CIRKD: how pixels are related within and across the images of a batch."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='cirkd')
@needs(tasks=('segmentation',), paper='Yang et al., CVPR 2022, arXiv 2204.06986')
def cirkd(pair: Pair, minibatch: float = 1.0, tau: float = 0.1, nodes: int | None = 1024) -> Plan:
    """Each pixel is as like the pixels of every image of the batch as it is to the teacher.

    The mini-batch term: rows of cosines of what the classifier reads, of any channels, compared by
    KL at the student's size. The paper's memory of pixels and regions is ``cirkd-memory``.

    Defaults: the authors' weight 1 and τ = 0.1, whose normaliser is ours. Their runs have plain
    distillation of weight 1 and the memory beside it (``method=['cirkd', 'cirkd-memory',
    dict(type='kd', weight=1.)]``). They relate all 64×128 places of a map; here
    more than 1024 are averaged to fewer first, which is 75 times cheaper: ``nodes=None`` is theirs.
    The batch is that of all devices, in their code that of each.

    Args:
        pair: The pair.
        minibatch: Weight of the mini-batch term.
        tau: Temperature.
        nodes: How many places of an image are related at most; None: all.
    """
    objective = dict(
        loss=dict(type='RowWiseKLLoss', tau=tau, nodes=nodes),
        **pair.on('feat'),
        connectors=dict(teacher='auto'),
        weight=minibatch,
    )
    return Plan(objectives=dict(minibatch=objective), taps=dict(feat='auto:feature'))
