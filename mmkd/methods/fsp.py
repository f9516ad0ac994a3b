"""FSP: the flow between the stages of a network."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.methods.sp import TASKS
from mmkd.registry import METHODS


@METHODS.register_module(name='fsp')
@needs(tasks=TASKS, paper='Yim et al., CVPR 2017')
def fsp(
    pair: Pair,
    weight: float = 1.0,
    regressor: str | dict = 'auto',
    stages: int | None = None,
) -> Plan:
    """Channels of a stage and of the next have in common what they have in the teacher.

    The paper initialises a student by it, then trains it by labels alone; ``task_weight=0.`` is
    that first run, without it both are done at once. Where channels differ a 1×1 convolution is
    trained between, which the paper has not: its networks are alike.

    Default: weight 1 of each pair of stages, as RepDistiller initialises by a plain sum; the 50 in
    its script multiplies nothing. Normalisers are ours. The stem, a further stage there, is not
    read.

    Args:
        pair: The pair.
        weight: Of each objective.
        regressor: Connector of the student's stages.
        stages: How many maps the backbones give; None: as the configs say.
    """
    number = pair.stages(given=stages)
    if number < 2:
        pair.fail(
            'the backbones give one map, and it compares two stages. Mend: more out_indices; '
            'stages=2 where they give more'
        )
    objectives = {
        f'fsp{n}': dict(
            loss=dict(type='FlowOfSolutionLoss'),
            reads=dict(
                student=f'{pair.student}.stage{n}',
                student_next=f'{pair.student}.stage{n + 1}',
                teacher=f'{pair.teacher}.stage{n}',
                teacher_next=f'{pair.teacher}.stage{n + 1}',
            ),
            connectors=dict(student=regressor, student_next=regressor),
            weight=weight,
        )
        for n in range(1, number)
    }
    taps = {f'stage{n}': f'auto:stages[{n - 1}]' for n in range(1, number + 1)}
    return Plan(objectives=objectives, taps=taps)
