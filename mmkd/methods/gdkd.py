"""GDKD: the teacher's first classes against the rest, and each among themselves."""

from collections.abc import Sequence

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='gdkd')
@needs(
    tasks=('segmentation', 'classification'),
    paper='seg-gdkd, a repository, after Zhao et al., CVPR 2022, arXiv 2203.08679',
)
def gdkd(
    pair: Pair,
    k: int = 3,
    weights: Sequence[float] = (1.0, 1.0, 2.0),
    tau: float = 1.0,
    weight: float = 1.0,
) -> Plan:
    """KL in three: of the teacher's first k classes against the rest, and within both.

    Defaults are the repository's for label maps: k = 3, weights 1, 1 and 2, τ = 1, and of all three
    1 (``--lambda-kd``, which none of its scripts changes), labels at 1; its mean over pixels is
    ours. It adds 0.4 of the same on the auxiliary heads, which is not here. It needs no labels, and
    more than k classes.

    Args:
        pair: The pair.
        k: How many classes are in front.
        weights: Of the masses, within the first k, and within the rest.
        tau: Temperature.
        weight: Of the objective.
    """
    if not isinstance(weights, list | tuple) or len(weights) != 3:
        pair.fail(
            'weights must be three numbers, of the masses, within the first k and within the rest, '
            f'got {weights!r}. Mend: weights=(1, 1, 2)'
        )
    loss = dict(type='TopKDecoupledKLLoss', k=k, weights=tuple(weights), tau=tau)
    return Plan(
        objectives=dict(gdkd=dict(loss=loss, **pair.on('logits'), weight=weight)),
        taps=dict(logits='auto'),
    )
