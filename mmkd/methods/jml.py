"""JML: the overlap of the classes' regions, with the teacher's soft ones."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='jml')
@needs(tasks=('segmentation',), paper='Wang et al., NeurIPS 2023 and MICCAI 2023, arXiv 2302.05666')
def jml(
    pair: Pair,
    metric: str = 'jaccard',
    scope: str = 'batch',
    weight: float = 0.75,
    task_weight: float = 0.25,
) -> Plan:
    """The student's regions overlap with the teacher's: the metric itself is what is distilled.

    Defaults are the authors' mix of 0.75 of it with 0.25 of a cross-entropy, here the student's
    own losses. Their teachers are trained with label smoothing, and half the usual epochs are
    enough for the students, they say. The mean over classes counts all of them, as for soft labels
    in their code.

    Args:
        pair: The pair.
        metric: 'jaccard' or 'dice'.
        scope: 'batch': regions lie in the whole batch; 'image': in each image.
        weight: Of the objective.
        task_weight: Of the student's own losses.
    """
    loss = dict(type='SoftJaccardLoss', metric=metric, scope=scope)
    return Plan(
        objectives=dict(jml=dict(loss=loss, **pair.on('logits'), weight=weight)),
        taps=dict(logits='auto'),
        task_weight=task_weight,
    )
