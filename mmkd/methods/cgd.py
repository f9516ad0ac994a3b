"""CGD: channel-wise distillation of groups of channels."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='cgd')
@needs(tasks=('segmentation',), paper='SegDistill, a repository, 2021, after arXiv 2011.13256')
def cgd(
    pair: Pair, size: int = 10, tau: float = 2.0, weight: float = 0.75, groups: int | None = None
) -> Plan:
    """Groups of classes share a distribution over their places: between ``kd`` and ``cwd``.

    Defaults are the repository's: groups of 10 channels, τ = 2 and weight 3, which is 3/4 here,
    since τ² is inside the loss and not in its code. Where 10 does not divide the classes, its last
    group is smaller; here their sizes differ by one at most. It compares logits that are resized to
    the labels, at many times the memory; here they have the size of the student's head. Its best
    run raises the weight for 2 000 of 160 000 iterations and lowers it to 0 between 110 000 and
    120 000: a ScheduleHook on ``cgd.weight``.

    Args:
        pair: The pair.
        size: Channels of a group, about.
        tau: Temperature.
        weight: Of the objective.
        groups: How many groups; None: as many as ``size`` asks for.
    """
    groups = max(1, -(-pair.num_classes // size)) if groups is None else groups
    objective = dict(
        loss=dict(type='ChannelWiseKLLoss', tau=tau, groups=groups),
        **pair.on('logits'),
        connectors=dict(teacher='auto'),
        weight=weight,
    )
    return Plan(objectives=dict(cgd=objective), taps=dict(logits='auto'))
