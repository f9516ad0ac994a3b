"""KD-DETR: student and teacher answer the same queries."""

from typing import Any

from mmkd.methods.kd import type_of
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS

LAYERS = 6  # of a decoder, where its config does not say


@METHODS.register_module(name='kd-detr')
@needs(tasks=('detection',), paper='Wang et al., CVPR 2024, arXiv 2211.08071')
def kd_detr(
    pair: Pair,
    tau: float = 10.0,
    classes: float = 1.0,
    l1: float = 5.0,
    giou: float = 2.0,
    number: int = 300,
) -> Plan:
    """The student's decoder says of the teacher's queries, and of random ones, what it says.

    Of DETR, Conditional DETR, DAB-DETR, Deformable DETR and DINO of mmdet, two of one kind. Both
    decoders run once more on the teacher's queries and once on random ones, so that an answer has
    its counterpart without matching; each layer of the student's learns from the teacher's last.
    The teacher's are those that it has learned; of Deformable DETR and DINO, content and references
    as its decoder is asked on these images.

    Defaults are those of the authors' code: τ = 10, 300 random queries drawn at each step, classes
    1, L1 5 and GIoU 2 by the teacher's best scores w, added up over the layers (here a mean over
    layers times their number). Boxes are divided by Σ w, as here. Their classes are a sum over
    queries and a mean over the C classes, so Σ w / C times those here: the weight is as published
    where the scores of a batch add up to C.

    Args:
        pair: The pair.
        tau: Temperature of the classes.
        classes: Weight of the classes.
        l1: Weight of the distance of boxes.
        giou: Weight of their overlap.
        number: Of random queries; 0: the teacher's alone.
    """
    for member in (pair.student, pair.teacher):
        if pair.lacks(member, 'decoder'):
            pair.fail(
                f'the queries of a decoder are asked, and {member!r} is a '
                f'{type_of(pair.models[member])} without one. Mend: two DETRs of mmdet; of dense '
                'detectors crosskd or pkd'
            )
    decoder = getattr(pair.models.get(pair.student), 'decoder', None)
    layers = getattr(decoder, 'num_layers', None) or LAYERS
    if not getattr(decoder, 'return_intermediate', True):
        layers = 1  # the last one is all that it says
    loss: dict[str, Any] = dict(
        type='SharedQueriesLoss', tau=tau, classes=classes, l1=l1, giou=giou
    )
    parts = _picked(pair.models.get(pair.teacher))
    reads = dict(
        student=f'{pair.student}.memory',
        teacher=f'{pair.teacher}.memory',
        places=f'{pair.student}.places',
        teacher_places=f'{pair.teacher}.places',
        padding='batch.padding',
    )
    own = dict(reads, asked=[f'{pair.teacher}.{part}' for part in parts]) if parts else reads
    kinds = dict(kd_detr=(dict(loss, queries='teacher'), own))
    if number:
        kinds['kd_detr_random'] = (dict(loss, queries='random', number=number), reads)
    taps = {
        member: dict(places='positional_encoding#*')
        for member in (pair.student, pair.teacher)
        if _picked(pair.models.get(member))
    }
    asked = {part: f'decoder:input[{part}]' for part in parts}
    return Plan(
        objectives={
            name: dict(loss=kind, reads=read, weight=float(layers))
            for name, (kind, read) in kinds.items()
        },
        taps=dict(memory='encoder', places='positional_encoding'),
        member_taps=taps | ({pair.teacher: taps[pair.teacher] | asked} if parts else {}),
    )


def _picked(model: Any) -> tuple[str, ...]:
    """Return what is tapped of a decoder's queries; () where they are weights, of one level."""
    if not hasattr(model, 'num_feature_levels'):
        return ()
    dino = hasattr(model, 'dn_cfg') or hasattr(model, 'dn_query_generator')  # described, or built
    return ('query', 'reference_points') if dino else ('query', 'query_pos', 'reference_points')
