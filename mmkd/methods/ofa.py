"""OFA: stages of a student learn to say the classes, from a teacher of another architecture."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='ofa')
@needs(tasks=('segmentation', 'classification'), paper='Hao et al., NeurIPS 2023, arXiv 2310.19444')
def ofa(
    pair: Pair,
    power: float = 1.5,
    exits: float = 1.0,
    logits: float = 1.0,
    tau: float = 1.0,
    stages: int | None = None,
) -> Plan:
    """Exits on all stages, and the student itself, learn the teacher's classes, the label boosted.

    Features of a CNN and of a transformer have little in common, and what each says of the classes
    has: an exit brings a stage there. Its target makes the label more likely than the teacher holds
    it, the more so the higher ε is.

    Defaults: weight 1 of each exit and of the logits, τ = 1 and all stages, as the authors' script
    has them, and ε = 1.5, as their command for ImageNet; the script's own is 1. Their code averages
    over images and has no τ², so that at τ = 1 nothing is converted. Their exits are separable
    convolutions, pooled, and a linear layer, or blocks of a transformer; here 1×1 convolutions, in
    the student's optimizer and never exported. For label maps nothing is published.

    Args:
        pair: The pair.
        power: ε, above 0.
        exits: Weight of each exit.
        logits: Weight of the student's own logits, 0: none.
        tau: Temperature.
        stages: How many maps of the student's backbone have exits, from the first on, 0: none;
            None: as many as its config says.
    """
    number = pair.stages(pair.student, given=stages, least=0)
    if not number and not logits:
        pair.fail("stages=0 and logits=0 teach nothing. Mend: dict(type='ofa', stages=0)")
    labels = dict(labels='batch.labels')
    teacher = f'{pair.teacher}.logits'
    objectives = {
        f'exit{k}': dict(
            loss=dict(type='ExitLoss', ce=0.0, kd=1.0, tau=tau, power=power),
            reads=dict(student=f'{pair.student}.stage{k}', teacher=teacher, **labels),
            weight=exits,
        )
        for k in range(number)
    }
    if logits:
        objectives['ofa'] = dict(
            loss=dict(type='BoostedTargetCELoss', power=power, tau=tau),
            **pair.on('logits', **labels),
            connectors=dict(teacher='auto'),
            weight=logits,
        )
    taps = {f'stage{k}': f'auto:stages[{k}]' for k in range(number)}
    return Plan(objectives=objectives, taps={'logits': 'auto', **taps})
