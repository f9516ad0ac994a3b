"""FGD: features where boxes and the teacher's attention are."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS
from mmkd.utils.checks import check_non_negative, check_positive

CHANNELS = 256  # of the necks of the authors' runs
BOXES = 7.3  # of an image of COCO's training set
PLACES = 100 * 168  # of the level of stride 8, at 800×1333
PUBLISHED = (1e-3, 5e-4, 1e-3, 5e-6)  # α, β, γ, λ, of detectors of one stage
TWO_STAGES = (5e-5, 2.5e-5, 5e-5, 5e-7)
BLOCKS = 'shared'


@METHODS.register_module(name='fgd')
@needs(tasks=('detection',), paper='Yang et al., CVPR 2022, arXiv 2111.11837')
def fgd(
    pair: Pair,
    alpha: float | None = None,
    beta: float | None = None,
    gamma: float | None = None,
    relation: float | None = None,
    temperature: float = 0.5,
    blocks: str = BLOCKS,
) -> Plan:
    """Each level of the neck is the teacher's where objects are, and where the teacher looks.

    Each box counts as much as another, whatever its size, and the background of an image as much as
    half a box; within both, places and channels by the teacher's attention, which is learned too.
    A 1×1 convolution is trained where channels differ.

    Beside this focal part is the global one: maps to which a block has added what lies elsewhere in
    the image. One block serves both sides and learns with the student, so that a student that is
    the teacher is at no distance. The authors have one for each side, both of which learn from the
    loss itself, the teacher's as well: ``blocks='two'``, of which that holds at the start alone.

    Defaults are the published α = 1e-3 in boxes, β = 5e-4 outside, γ = 1e-3 of the attentions and λ
    = 5e-6 of the global part, of two-stage detectors 5e-5, 2.5e-5, 5e-5 and 5e-7. The authors'
    configs have γ = 5e-4 for RetinaNet and GFL, and for FCOS α = 1.6e-3, β = γ = 8e-4, λ = 8e-6 and
    T = 0.8. They multiply sums over N images; here are means,
    so that a step with few boxes counts as much as one with many. What they are converted by: a
    neck of 256 channels, 7.3 boxes an image (COCO) and 800×1333 pixels. One weight α·256·(7.3 +
    β/α), near 2, of the features of each level; within it the attention over places has γ·P, P =
    16800 at stride 8 (two stages: four times that at stride 4) and a quarter at each level on, and
    that over channels γ·256; the global part has λ·256·P.

    Args:
        pair: The pair.
        alpha: α, of what lies in boxes, as published.
        beta: β, of what lies outside.
        gamma: γ, of the attentions.
        relation: λ, of the global part; 0: without it.
        temperature: Of the attentions.
        blocks: Of the global part, 'shared' or 'two'.
    """
    two_stages = hasattr(pair.models.get(pair.student), 'roi_head')
    defaults = TWO_STAGES if two_stages else PUBLISHED
    given = zip((alpha, beta, gamma, relation), defaults, strict=True)
    alpha, beta, gamma, relation = (default if value is None else value for value, default in given)
    check_positive('alpha', alpha)
    check_non_negative('beta', beta)
    check_non_negative('gamma', gamma)
    check_non_negative('relation', relation)
    if not relation:
        why = 'relation=0 leaves the global part out'
        pair.refuse_unused(why, ', or relation above 0', blocks=(blocks, BLOCKS))
    weight = alpha * CHANNELS * (BOXES + beta / alpha)
    finest = PLACES * (4 if two_stages else 1)
    levels = range(pair.levels())
    return Plan(
        objectives={
            f'fgd{k}': dict(
                loss=dict(
                    type='FocalFeatureLoss',
                    temperature=temperature,
                    spatial=gamma * finest / 4**k / weight,
                    channel=gamma * CHANNELS / weight,
                    relation=relation * CHANNELS * finest / 4**k / weight,
                    blocks=blocks,
                ),
                **pair.on(f'feat{k}'),
                connectors=dict(student='auto'),
                where=dict(type='Boxes', outside=beta / alpha),
                weight=weight,
            )
            for k in levels
        },
        taps={f'feat{k}': f'auto:neck[{k}]' for k in levels},
    )
