"""ONE: peers learn from their own logits, weighed by a gate that learns."""

from mmkd.methods.kdcl import learn_from
from mmkd.methods.pair import Pair
from mmkd.methods.plan import PEERS, Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='one')
@needs(PEERS, ('segmentation', 'classification'), 'Lan et al., ONE, NeurIPS 2018')
def one(
    pair: Pair, tau: float = 3.0, weight: float = 1.0, gate: float = 1.0, drop: float = 0.0
) -> Plan:
    """Every peer learns KL(ensemble‖peer), and the ensemble the labels: Σ of gate · logits.

    In the paper the peers are branches of one network, and its gate reads a layer that they share;
    peers here share none, so the gate reads what each says on average of an image, see
    :class:`mmkd.distiller.members.kinds.gate.Gate`. Defaults are those of the implementation in
    OKDDip: T = 3, T² inside, weight 1 of the sum over branches, and of the ensemble's
    cross-entropy, which reaches the branches as well; its weight rises over 80 epochs, here it is
    constant.

    Args:
        pair: The peers: ``students=dict(peer0=…, peer1=…)``.
        tau: Temperature.
        weight: Of each peer's objective.
        gate: Of the ensemble's cross-entropy.
        drop: How likely each peer is left out of the ensemble of a step.
    """
    learns = dict(
        loss=dict(type='MixedTargetCELoss'),
        reads=dict(student='gate.logits', labels='batch.labels'),
        weight=gate,
    )
    return Plan(
        objectives={**learn_from('gate', pair, tau, weight), 'ensemble': learns},
        taps=dict(logits='auto'),
        teachers=dict(gate=dict(kind='gate', of=list(pair.students), drop=drop)),
    )
