"""KDCL: peers learn from the best of them, or from their mean."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import PEERS, Plan, needs
from mmkd.registry import METHODS
from mmkd.utils.checks import check_choice


@METHODS.register_module(name='kdcl')
@needs(PEERS, ('segmentation', 'classification'), 'Guo et al., KDCL, CVPR 2020')
def kdcl(
    pair: Pair, kind: str = 'min-ce', tau: float = 3.0, weight: float = 1.0, drop: float = 0.0
) -> Plan:
    """Every peer learns KL(target‖peer); the target is made of all peers in the same step.

    With 'min-ce' it is, for each image or pixel, what the peer of the lowest cross-entropy says,
    with 'mean' the mean of their probabilities. In the paper each peer sees an augmentation of its
    own, here all see one batch. No code of the authors is known, so T = 3 and weight 1 are those of
    ``dml``, not theirs.

    Args:
        pair: The peers: ``students=dict(peer0=…, peer1=…)``.
        kind: 'min-ce' or 'mean'.
        tau: Temperature.
        weight: Of each objective.
        drop: How likely each peer is left out of the target of a step.
    """
    check_choice('kind', kind, ('min-ce', 'mean'))
    target = dict(kind=kind, of=list(pair.students), drop=drop)
    return Plan(
        objectives=learn_from('target', pair, tau, weight),
        taps=dict(logits='auto'),
        teachers=dict(target=target),
    )


def learn_from(teacher: str, pair: Pair, tau: float, weight: float) -> dict[str, dict]:
    """Return an objective for each peer on what a combination of them says."""
    return {
        f'logit{k}': dict(
            loss=dict(type='PixelWiseKLLoss', tau=tau),
            reads=dict(student=f'{own}.logits', teacher=f'{teacher}.logits'),
            weight=weight,
        )
        for k, own in enumerate(pair.students)
    }
