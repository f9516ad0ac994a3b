"""LSKD: logits are standardised before they are compared."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs, of_task
from mmkd.registry import METHODS


@METHODS.register_module(name='lskd')
@needs(tasks=('segmentation', 'classification'), paper='Sun et al., CVPR 2024, arXiv 2403.01427')
def lskd(
    pair: Pair, tau: float = 2.0, weight: float = 9.0, task_weight: float | None = None
) -> Plan:
    """Plain distillation of standardised logits, whose size the student need not match.

    Defaults are the authors': base temperature 2, weight 9, which their code also multiplies by
    τ²; of classes of images beside 0.1 of the labels, as in ``kd``. Their mean over images is ours;
    of label maps, for which the paper has no numbers, it is the mean over pixels beside the labels
    at 1.

    Args:
        pair: The pair.
        tau: Temperature of the standardised logits.
        weight: Of the objective.
        task_weight: Of the student's own losses.
    """
    if pair.task.num_classes == 2:
        pair.fail(
            'two logits, standardised, are ±1 whatever they were, so that nothing could be '
            "learned. Mend: 'kd'"
        )
    loss = dict(type='PixelWiseKLLoss', tau=tau, standardize=True)
    return Plan(
        objectives=dict(lskd=dict(loss=loss, **pair.on('logits'), weight=weight)),
        taps=dict(logits='auto'),
        task_weight=of_task(pair, task_weight, classification=0.1),
    )
