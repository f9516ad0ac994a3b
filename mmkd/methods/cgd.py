"""CGD: channel-wise distillation of groups of channels."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS

SIZE = 10


@METHODS.register_module(name='cgd')
@needs(tasks=('segmentation',), paper='SegDistill, a repository, 2021, after arXiv 2011.13256')
def cgd(
    pair: Pair, size: int = SIZE, tau: float = 2.0, weight: float = 0.75, groups: int | None = None
) -> Plan:
    """Groups of classes share a distribution over their places: between ``kd`` and ``cwd``.

    Defaults are the repository's: groups of 10 channels, τ = 2 and weight 3, which is 3/4 here,
    since τ² is inside the loss and not in its code. Where 10 does not divide the classes, its last
    group is smaller; here their sizes differ by one at most. It compares logits that are resized to
    the labels, at many times the memory; here they have the size of the student's head. The weight
    rises and falls as in its best run (41.27 mIoU of a SegFormer-B0 on ADE20K, 40.39 without): over
    the first 2 000 of 160 000 iterations, and to 0 between 110 000 and 120 000, here as shares of
    the run: warm_up=0.0125, decay=(0.6875, 0.75).

    Args:
        pair: The pair.
        size: Channels of a group, about.
        tau: Temperature.
        weight: Of the objective.
        groups: How many groups, in place of ``size``; None: as many as that asks for.
    """
    number = _groups(pair, size, groups)
    objective = dict(
        loss=dict(type='ChannelWiseKLLoss', tau=tau, groups=number),
        **pair.on('logits'),
        connectors=dict(teacher='auto'),
        weight=weight,
    )
    return Plan(
        objectives=dict(cgd=objective),
        taps=dict(logits='auto'),
        warm_up=2_000 / 160_000,
        decay=(110_000 / 160_000, 120_000 / 160_000),
    )


def _groups(pair: Pair, size: int, groups: int | None) -> int:
    """Return how many groups there are."""
    if groups is None:
        pair.check_count('size', size, f'size={SIZE}')
        return -(-pair.num_classes // size)
    pair.check_count('groups', groups, f'groups=2, or size={SIZE}')
    pair.refuse_unused('groups says how many there are', ', or groups', size=(size, SIZE))
    return groups
