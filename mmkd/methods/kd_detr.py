"""KD-DETR: student and teacher answer the same queries."""

from typing import Any

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

    Of DETR, Conditional DETR and DAB-DETR of mmdet, two of one kind. Both decoders run once more on
    the queries that the teacher has learned and once on random ones, so that an answer has its
    counterpart without matching; each layer of the student's learns from the teacher's last.

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
    decoder = getattr(pair.models.get(pair.student), 'decoder', None)
    layers = getattr(decoder, 'num_layers', None) or LAYERS
    if not getattr(decoder, 'return_intermediate', True):
        layers = 1  # the last one is all that it says
    loss: dict[str, Any] = dict(
        type='SharedQueriesLoss', tau=tau, classes=classes, l1=l1, giou=giou
    )
    kinds = dict(kd_detr=dict(loss, queries='teacher'))
    if number:
        kinds['kd_detr_random'] = dict(loss, queries='random', number=number)
    reads = dict(
        student=f'{pair.student}.memory',
        teacher=f'{pair.teacher}.memory',
        places=f'{pair.student}.places',
        teacher_places=f'{pair.teacher}.places',
        padding='batch.padding',
    )
    return Plan(
        objectives={
            name: dict(loss=kind, reads=reads, weight=float(layers)) for name, kind in kinds.items()
        },
        taps=dict(memory='encoder', places='positional_encoding'),
    )
