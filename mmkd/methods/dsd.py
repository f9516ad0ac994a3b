"""DSD: how attention changes from layer to layer, and which classes overlap."""

from collections.abc import Sequence

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS

TAU, POOL = 4.0, 2


@METHODS.register_module(name='dsd')
@needs(tasks=('segmentation',), paper='Feng et al., TIP 2021, arXiv 2107.08591')
def dsd(
    pair: Pair,
    weight: float = 10 / 2048**2,
    tau: float = TAU,
    pool: int = POOL,
    pixel: float = 1000 / 8192,
    layers: Sequence[str] | None = None,
) -> Plan:
    """Attention changes between layers, and any two classes overlap, as they do in the teacher.

    The category-wise similarity is of logits over places; the pixel-wise one is of the differences
    between maps of attention, which the paper takes of several layers.

    Defaults: the weights of CIRKD's comparison of CNNs, the layers of that of SegFormers. It has 10
    of a category term that falls with the squared number P of pooled places; here it does not, and
    the weight is 10 / P² for the 32×64 of its crops. That is little: the similarity alone wants
    more, such as ``weight=0.1``, which was not tried. It has 1000 of a pixel term that falls with
    the number of places, here 1000 over the 64×128 of them. Of SegFormers, with 256×256 places, its
    1000 would be 1000/65536 here. Its layers are the last features and the logits; of CNNs the map
    of the auxiliary head as well, which a teacher does not run.

    Args:
        pair: The pair.
        weight: Of the category-wise objective; 0: none.
        tau: Temperature of the distributions over places.
        pool: Side of the windows that are averaged first.
        pixel: Weight of the pixel-wise objective; 0: none.
        layers: Points or paths of its layers, two or more, such as ``['auto:stages[1]',
            'auto:stages[2]', 'auto:stages[3]']``.
    """
    _check_layers(pair, pixel, layers)
    if not weight and not pixel:
        pair.fail(
            f'weight=0 and pixel=0 teach nothing. Mend: dict(type={pair.method!r}, weight=0.1)'
        )
    if not weight:
        why = 'weight=0 leaves the category-wise term out'
        pair.refuse_unused(why, ', or weight above 0', tau=(tau, TAU), pool=(pool, POOL))
    taps = dict(logits='auto')
    objectives: dict = {}
    if weight:
        objectives['dsd'] = dict(
            loss=dict(type='ChannelGramLoss', kind='dsd', tau=tau, pool=pool),
            **pair.on('logits'),
            connectors=dict(teacher='auto'),
            weight=weight,
        )
    if pixel:
        names = ['feat', 'logits']
        taps['feat'] = 'auto:feature'
        if layers is not None:
            names = [f'layer{k}' for k in range(len(layers))]
            taps = dict(logits='auto') if weight else {}
            taps |= dict(zip(names, layers, strict=True))
        objectives['dsd_pixel'] = dict(
            loss=dict(type='ResidualAttentionLoss'),
            reads=dict(
                student=[f'{pair.student}.{name}' for name in names],
                teacher=[f'{pair.teacher}.{name}' for name in names],
            ),
            weight=pixel,
        )
    return Plan(objectives=objectives, taps=taps)


def _check_layers(pair: Pair, pixel: float, layers: Sequence[str] | None) -> None:
    """Refuse layers that are not two, or of which nothing is read."""
    if layers is not None and (
        not isinstance(layers, list | tuple)
        or len(layers) < 2
        or not all(isinstance(one, str) for one in layers)
    ):
        pair.fail(
            f'layers must be a list of two points or paths, or of more, got {layers!r}. Mend: '
            "layers=['auto:stages[2]', 'auto:stages[3]'], or leave layers out"
        )
    if not pixel:
        why = 'pixel=0 leaves the term of them out'
        pair.refuse_unused(why, ', or pixel above 0', layers=(layers, None))
