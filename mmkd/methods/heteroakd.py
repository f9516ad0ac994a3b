"""HeteroAKD: stages of student and teacher say the classes, and the student learns the better."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='heteroakd')
@needs(tasks=('segmentation', 'classification'), paper='Huang et al., AAAI 2025, arXiv 2504.07691')
def heteroakd(
    pair: Pair,
    kd: float = 1.0,
    ce: float = 1.0,
    logits: float = 0.1,
    tau: float = 4.0,
    over: str = 'places',
    stages: int = 1,
) -> Plan:
    """Exits on a stage of both say the classes; a mix of the two, by the labels, is the target.

    For a teacher of another architecture, whose features are unlike and whose errors are its own:
    where the labels bear the student out rather than the teacher, it learns less from it. Plain
    distillation of the logits stands beside.

    Of the paper only the abstract was to be had, and no code of its authors: the formula is that of
    two implementations by others. They agree on the mix and on what is to be learned; ``over``
    chooses between their readings of the rest, see
    :func:`mmkd.losses.divergence.reliability_mix.reliability_mix`.

    Defaults: those of the implementation that has ``over='places'``: weight 1 of the mix and of the
    exits' own labels, 0.1 of the logits, τ = 4, the last stage. It says that the 0.1 and the last
    stage are the paper's; the weight of the exits' labels is its own, and of τ it does not say. It
    averages as here, so that nothing is converted. Its exits have normalisation, here they are 1×1
    convolutions, in the student's optimizer and never exported. For classes of images nothing is
    published; there the places of the mix are the images of the batch.

    Args:
        pair: The pair; with ``logits=0`` the teacher may have other classes, or none.
        kd: Weight of the mix in each objective.
        ce: Weight of the labels in each objective, above 0: the teacher's exits learn by it alone.
        logits: Weight of the plain distillation, 0: none.
        tau: Temperature of both.
        over: 'places' or 'classes': what the weights of the mix add up to 1 over.
        stages: How many stages have exits, counted from the last.
    """
    if not isinstance(stages, int) or stages < 1:
        pair.fail(f'stages are counted from the last, got {stages!r}. Mend: 1 or more')
    objectives: dict = {
        f'mixed{k}': dict(
            loss=dict(
                type='MixedExitLoss', num_classes=pair.num_classes, kd=kd, ce=ce, tau=tau, over=over
            ),
            **pair.on(f'deep{k}', labels='batch.labels'),
        )
        for k in range(1, stages + 1)
    }
    taps = {f'deep{k}': f'auto:stages[-{k}]' for k in range(1, stages + 1)}
    if logits:
        objectives['pixel'] = dict(
            loss=dict(type='PixelWiseKLLoss', tau=tau),
            **pair.on('logits'),
            connectors=dict(teacher='auto'),
            weight=logits,
        )
        taps['logits'] = 'auto'
    return Plan(objectives=objectives, taps=taps)
