"""BPKD: edges and bodies, each by its own divergence."""

from mmkd.methods.kd import logits
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='bpkd')
@needs(tasks=('segmentation',), paper='Liu et al., WACV 2024, arXiv 2306.08075')
def bpkd(
    pair: Pair, edge: float = 50.0, body: float = 20.0, radius: int = 3, tau: float = 4.0
) -> Plan:
    """Pixel-wise KL in a band around the edges of the labels, channel-wise KL outside of it.

    No training code of the authors is known; their form, as two re-implementations have it, is
    another one. They multiply logits by the mask, so that masked places keep a share of every
    softmax; here such places are left out of it. Their edge term is Σ_c α_c · (mean of the KL over
    the edge of class c), a sum over classes with α = 2, where this is one mean over the band.

    Defaults: the published 50 and 20, windows of 7. The body's normaliser is ours. If the KL were
    the same at the edges of all C' classes that an image shows, 50 · α · C' = 100 · C' here would
    be their edge term, 1900 of 19 classes; but of theirs the multiplied logits leave little, and
    100 · C' of a whole KL would drown the labels. So the 50 stands as a weight of the mean, which
    is ours; in our tables 0.1 and 0.3 of it were best. The body's temperature is 1 in one
    re-implementation, 4 in the other; the edge's is 1 here.

    Args:
        pair: The pair.
        edge: Weight of the pixel-wise term in the band.
        body: Weight of the channel-wise term outside.
        radius: Of the band, in pixels of the labels.
        tau: Temperature of the channel-wise term.
    """
    inside = logits(pair, None, edge)
    outside = dict(
        loss=dict(type='ChannelWiseKLLoss', tau=tau),
        **pair.on('logits'),
        connectors=dict(teacher='auto'),
        weight=body,
    )
    band = dict(type='BoundaryBand', radius=radius)
    return Plan(
        objectives=dict(
            edge=dict(**inside, where=band), body=dict(**outside, where=dict(**band, outside=True))
        ),
        taps=dict(logits='auto'),
    )
