"""A CNN under a transformer, or the reverse: rows of affinity in place of attention."""

from collections.abc import Sequence

from mmkd.methods.kd import logits
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='affinity')
@needs(tasks=('segmentation',), paper='Aguilar et al., AAAI 2020, arXiv 1910.03723')
def affinity(
    pair: Pair,
    size: Sequence[int] = (16, 16),
    weight: float = 1.0,
    soft: float = 1.0,
    tau: float | None = None,
) -> Plan:
    """Rows of affinity between places stand for attention where one of two has none.

    Ours, after ``id``: softmax rows of the cosines of the last features on a common grid are
    compared as attention is there. Soft labels beside them, weights 1.

    Args:
        pair: The pair.
        size: Grid on which places are compared.
        weight: Of the affinities.
        soft: Weight of the soft labels.
        tau: Temperature of the soft labels.
    """
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(type(side) is int and side > 0 for side in size)
    ):
        pair.fail(
            'size must be height and width, whole numbers of at least 1, got '
            f'{size!r}. Mend: size=(16, 16)'
        )
    rows = dict(type='AffinityRows', size=tuple(size))
    return Plan(
        objectives=dict(
            soft=logits(pair, tau, soft),
            affinity=dict(
                loss=dict(type='AttentionKLLoss'),
                **pair.on('feat'),
                connectors=dict(student=dict(rows), teacher=dict(rows)),
                weight=weight,
            ),
        ),
        taps=dict(logits='auto', feat='auto:feature'),
    )
