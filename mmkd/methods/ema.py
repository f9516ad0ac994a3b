"""A student that learns from the running mean of its own weights."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import ITSELF, Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='ema')
@needs(
    ITSELF,
    ('segmentation', 'classification'),
    'Tarvainen and Valpola, Mean teachers, NeurIPS 2017, arXiv 1703.01780',
)
def ema(
    pair: Pair,
    momentum: float = 0.999,
    momentum_warm_up: bool = True,
    tau: float = 1.0,
    weight: float = 1.0,
) -> Plan:
    """The teacher is a copy of the student, whose weights are an average of those before.

    The objective is KL(copy‖student) of the logits, beside the labels. In the paper it is the
    square of the difference of probabilities, on images that are augmented twice and partly
    unlabelled, and its weight rises, as ``warm_up`` of every method lets it. So there is no
    published weight to convert, and 1 is ours.

    Args:
        pair: The student.
        momentum: Of the average, from 0 to below 1.
        momentum_warm_up: Whether it begins small: min(momentum, (1 + k) / (10 + k)) at step k.
        tau: Temperature.
        weight: Of the objective.
    """
    objective = dict(
        loss=dict(type='PixelWiseKLLoss', tau=tau),
        reads=dict(student=f'{pair.student}.logits', teacher='ema.logits'),
        weight=weight,
    )
    copied = dict(kind='ema', of=pair.student, momentum=momentum, warm_up=momentum_warm_up)
    return Plan(objectives=dict(ema=objective), taps=dict(logits='auto'), teachers=dict(ema=copied))
