"""AFD: peers match the distribution of their last feature maps."""

from typing import Any

from mmkd.methods.dml import TASKS, dml, name_of
from mmkd.methods.pair import Pair
from mmkd.methods.plan import PEERS, Plan, adam, last_map, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='afd')
@needs(
    PEERS, TASKS, 'Chung et al., ICML 2020, arXiv 2002.01775', cost='1.67–2.26 × the peers alone'
)
def afd(
    pair: Pair,
    tau: float = 3.0,
    weight: float = 1.0,
    map_weight: float = 1.0,
    lr: float = 2e-5,
    apart: bool = False,
) -> Plan:
    """Peers learn each other's logits, and discriminators tell their last maps from each other's.

    Each learns from the one before it, in a cycle. The maps are learned by an optimizer of their
    own over the same weights, at a smaller rate: three phases from one forward.

    Defaults are T = 3, weights 1 and Adam at 2e-5 for maps and discriminators, the paper's as far
    as they are remembered: no source could confirm them. Discriminators of label maps score every
    place instead of the pooled map.

    Args:
        pair: The peers: ``students=dict(peer0=…, peer1=…)``.
        tau: Temperature of the logits.
        weight: Of each objective on logits.
        map_weight: Of each objective on maps.
        lr: Of the optimizers of maps and of discriminators.
        apart: Whether each peer has an optimizer of its own for all else, which ``optim_wrapper``
            then has under the peer's name.
    """
    plan = dml(pair, tau, weight, apart)
    critic: dict[str, Any] = dict(type='FeatureMapCritic')
    if pair.kind == 'segmentation':
        critic['pooled'] = False
    maps = {
        name_of('map', k, own, apart): dict(
            loss=dict(type='AdversarialLoss', mode='lsgan', sigmoid=True, critic=critic),
            reads=dict(student=f'{own}.feat', teacher=f'{peer}.feat'),
            connectors=dict(student='auto'),
            weight=map_weight,
        )
        for k, own, peer in pair.cycle
    }
    logit: list[dict] = [
        dict(name='logit', optimizer='student', task=True, objectives=list(plan.objectives))
    ]
    if apart:
        logit = [
            dict(name=own, optimizer=own, task=[own], objectives=[name_of('logit', k, own, apart)])
            for k, own, _ in pair.cycle
        ]
    return Plan(
        objectives={**plan.objectives, **maps},
        taps=dict(logits='auto', feat=last_map(pair)),
        phases=[
            *logit,
            dict(name='feature', optimizer='feature', objectives=list(maps)),
            dict(name='critic', optimizer='critic', critics=list(maps)),
        ],
        optimizers=dict(feature=adam(lr), critic=adam(lr)),
    )
