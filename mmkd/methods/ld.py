"""LD: where the edges of boxes lie, as distributions."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS
from mmkd.utils.checks import check_choice


@METHODS.register_module(name='ld')
@needs(tasks=('detection',), paper='Zheng et al., CVPR 2022, arXiv 2102.12252')
def ld(
    pair: Pair,
    tau: float = 10.0,
    weight: float = 0.25 / 17,
    scores: str = 'teacher',
    least: float = 0.05,
) -> Plan:
    """The student's distributions of where edges of boxes lie are the teacher's.

    Of heads that predict distributions with as many bins: GFL's and those below it.

    Defaults: τ = 10 and the authors' weight 0.25, whose code divides by the bins, 17 with
    ``reg_max=16``, by 4 edges and by the weights of all positions; here only the bins are not, so
    that it is 0.25 / 17. Their positions are those of the assigner, by the student's score, and a
    valuable region around them, by their overlap with a box and divided by 16; here all those where
    the teacher's score is 0.05 or more, which is what its own test keeps, by that score. They have
    two more terms, plain distillation of the classes at τ = 2 (``method=['ld', 'kd']``, there as a
    softmax) and, in the config of R50, one on features.

    Args:
        pair: The pair.
        tau: Temperature.
        weight: Of the objective.
        scores: Whose class scores say how much a position counts: 'teacher' or 'student'.
        least: The score below which a position does not count.
    """
    check_choice('scores', scores, ('teacher', 'student'))
    levels = range(pair.levels())
    member = pair.teacher if scores == 'teacher' else pair.student
    objective = dict(
        loss=dict(type='LocalizationKLLoss', tau=tau, least=least),
        reads=dict(
            student=[f'{pair.student}.edges{k}' for k in levels],
            teacher=[f'{pair.teacher}.edges{k}' for k in levels],
            scores=[f'{member}.score{k}' for k in levels],
        ),
        weight=weight,
    )
    taps = {f'edges{k}': f'auto:edges[{k}]' for k in levels}
    return Plan(
        objectives=dict(ld=objective),
        taps=taps | {f'score{k}': f'auto:logits[{k}]' for k in levels},
    )
