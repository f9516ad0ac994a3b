"""IFVD: how features vary within a class."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.methods.skd import skd, skd_pi
from mmkd.registry import METHODS


@METHODS.register_module(name='ifvd')
@needs(tasks=('segmentation',), paper='Wang et al., ECCV 2020')
def ifvd(pair: Pair, weight: float = 200.0, pixel: float = 0.0, holistic: float = 0.0) -> Plan:
    """Every pixel is as like the centre of its class as it is to the teacher.

    What is compared is what the classifier reads, of any channels, at the student's size; the
    authors' code has the student's dropout in it, here it is read before.

    Default: the authors' weight 200 of a mean over all pixels, where those without a label add 0:
    of a batch with a share v of labelled ones it would be 200 · v here, where they are left out.
    CIRKD's comparison has 20. The authors' runs have two more terms, which ``pixel`` and
    ``holistic`` give: their 10 of a mean over pixels and classes is pixel=10 / 19 of 19 classes
    (here classes are summed), their 0.001 is holistic=0.001, of a critic on probabilities
    beside the image (theirs sees logits alone).

    Args:
        pair: The pair.
        weight: Of the objective.
        pixel: Weight of a pixel-wise term, 0: none.
        holistic: Weight of a holistic term with its critic, 0: none.
    """
    classes = pair.task.num_classes
    objective = dict(
        loss=dict(type='IntraClassVariationLoss', num_classes=classes),
        **pair.on('feat', labels='batch.labels'),
        connectors=dict(teacher='auto'),
        weight=weight,
    )
    beside = Plan()
    if holistic:
        beside = skd(pair, pixel, 0.0, holistic)
    elif pixel:
        beside = skd_pi(pair, pixel)
    return Plan(
        objectives={'ifvd': objective, **beside.objectives},
        taps={'feat': 'auto:feature', **beside.taps},
        optimizers=beside.optimizers,
    )
