"""Deep mutual learning: peers teach each other by their logits."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import PEERS, Plan, needs
from mmkd.registry import METHODS

TASKS = ('segmentation', 'classification')


@METHODS.register_module(name='dml')
@needs(
    PEERS, TASKS, 'Zhang et al., CVPR 2018, arXiv 1706.00384', cost='0.98–1.11 × the peers alone'
)
def dml(pair: Pair, tau: float = 3.0, weight: float = 1.0, apart: bool = False) -> Plan:
    """Peers learn each other's class probabilities while they train; nobody is a teacher.

    Each learns from the one before it, in a cycle, as in AFD, whose T = 3 and weight 1 these are;
    the paper has T = 1 and, of more than two peers, the mean over all others.

    Args:
        pair: The peers: ``students=dict(peer0=…, peer1=…)``.
        tau: Temperature.
        weight: Of each objective.
        apart: Whether the peers are of different kinds: objectives are called after them, and maps
            of another size are brought to the peer's, instead of the reverse.
    """
    connected = dict(connectors=dict(student='auto')) if apart else {}
    return Plan(
        objectives={
            name_of('logit', k, own, apart): dict(
                loss=dict(type='PixelWiseKLLoss', tau=tau),
                reads=dict(student=f'{own}.logits', teacher=f'{peer}.logits'),
                **connected,
                weight=weight,
            )
            for k, own, peer in pair.cycle
        },
        taps=dict(logits='auto'),
    )


def name_of(kind: str, k: int, peer: str, apart: bool) -> str:
    """Return the name of an objective of a peer.

    >>> name_of('logit', 0, 'cnn', False), name_of('logit', 0, 'cnn', True)
    ('logit0', 'logit_cnn')
    """
    return f'{kind}_{peer}' if apart else f'{kind}{k}'
