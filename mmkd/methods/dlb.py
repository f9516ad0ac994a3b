"""DLB: a student learns from what it said of the last batch, whose images come again."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import ITSELF, Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='dlb')
@needs(
    ITSELF,
    ('segmentation', 'classification'),
    'Shen et al., Self-Distillation from the Last Mini-Batch (DLB), CVPR 2022, arXiv 2203.16172',
    cost='two batches a step',
)
def dlb(pair: Pair, tau: float = 3.0, weight: float = 1.0) -> Plan:
    """The images of the last batch come again, and the student learns what it said of them then.

    The objective is T² KL of the images that come again, beside the student's own loss, which is
    that of both halves, as in the authors' code: its mean over images is ours, so that its weight
    is ours too. It has no default for T and α, so 3 and 1 are those of ``dml``, not read off there.
    The batch of a step is twice that of the data loader, as there.

    In the authors' code an image comes again under another crop and flip, here as it was: a map
    can be compared with itself alone. They pass the halves one after the other, each with its own
    statistics of norms; here it is one batch. The first step has no term.

    Args:
        pair: The student.
        tau: Temperature.
        weight: Of the objective.
    """
    objective = dict(
        loss=dict(type='PixelWiseKLLoss', tau=tau),
        reads=dict(student=f'{pair.student}.logits', teacher='last.logits', mask='batch.repeated'),
        weight=weight,
    )
    return Plan(
        objectives=dict(dlb=objective),
        taps=dict(logits='auto'),
        teachers=dict(last=dict(kind='last-batch', of=pair.student)),
        hooks=[dict(type='mmkd.LastBatchHook')],
    )
