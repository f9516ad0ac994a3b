"""SemCKD: each stage of the student learns from the stages of the teacher that it attends to."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='semckd')
@needs(tasks=('classification',), paper='Chen et al., AAAI 2021, arXiv 2012.03236')
def semckd(
    pair: Pair,
    weight: float = 400.0,
    images: int = 64,
    softness: float = 1.0,
    stages: int | None = None,
) -> Plan:
    """Each stage of the student learns from all of the teacher's, by a learned attention.

    The attention is of similarities between the images of a batch, so that it belongs to a size of
    batches, which ``images`` must name: the largest on a device. Three convolutions are trained
    for each pair of stages.

    Defaults are the authors': 400 of a mean over images and the student's stages, as here, batches
    of 64, softness 1. Beside it they have plain distillation at T = 4 and the labels, of weight 1
    each: method=['semckd', dict(type='kd', weight=1., task_weight=1.)].

    Args:
        pair: The pair.
        weight: Of the objective.
        images: Of a batch, on each device.
        softness: Temperature of the attention.
        stages: How many maps each backbone gives; None: as its config says.
    """
    counts = {name: pair.stages(name, given=stages) for name in (pair.student, pair.teacher)}
    own = [f'{pair.student}.{tap}' for tap in _taps(0, counts[pair.student])]
    other = [f'{pair.teacher}.{tap}' for tap in _taps(0, counts[pair.teacher])]
    objective = dict(
        loss=dict(type='CrossLevelLoss', images=images, softness=softness),
        reads=dict(student=own, teacher=other, student_maps=own),
        connectors=dict(student=dict(type='LevelPairs')),
        weight=weight,
    )
    least = min(counts.values())
    return Plan(
        objectives=dict(semckd=objective),
        taps=_taps(0, least),
        member_taps={name: _taps(least, n) for name, n in counts.items() if n > least},
    )


def _taps(first: int, end: int) -> dict[str, str]:
    return {f'stage{k + 1}': f'auto:stages[{k}]' for k in range(first, end)}
