"""L1 + KD: peers align their last feature maps directly."""

from mmkd.methods.dml import TASKS, dml
from mmkd.methods.pair import Pair
from mmkd.methods.plan import PEERS, Plan, last_map, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='l1')
@needs(PEERS, TASKS, 'Chung et al., ICML 2020, arXiv 2002.01775')
def l1(pair: Pair, tau: float = 3.0, weight: float = 1.0, map_weight: float = 1.0) -> Plan:
    """What AFD is compared with: peers' last maps aligned directly, in place of a discriminator.

    Args:
        pair: The peers: ``students=dict(peer0=…, peer1=…)``.
        tau: Temperature of the logits.
        weight: Of each objective on logits.
        map_weight: Of each objective on maps.
    """
    maps = {
        f'map{k}': dict(
            loss=dict(type='FeatureL1Loss'),
            reads=dict(student=f'{own}.feat', teacher=f'{peer}.feat'),
            connectors=dict(student='auto'),
            weight=map_weight,
        )
        for k, own, peer in pair.cycle
    }
    return Plan(
        objectives={**dml(pair, tau, weight).objectives, **maps},
        taps=dict(logits='auto', feat=last_map(pair)),
    )
