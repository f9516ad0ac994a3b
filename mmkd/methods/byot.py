"""BYOT: stages of a student learn to say the classes, from labels and from its own last word."""

from math import inf

from mmkd.methods.pair import Pair
from mmkd.methods.plan import ITSELF, Plan, needs
from mmkd.registry import METHODS
from mmkd.utils.checks import check_non_negative


@METHODS.register_module(name='byot')
@needs(
    ITSELF,
    ('segmentation', 'classification'),
    'Zhang et al., Be Your Own Teacher, ICCV 2019, arXiv 1905.08094',
)
def byot(
    pair: Pair,
    ce: float = 0.7,
    kd: float = 0.3,
    tau: float = 3.0,
    hint: float = 0.03,
    stages: int | None = None,
) -> Plan:
    """Each stage but the last has an exit; exits learn the labels and the student's own logits.

    An exit is 0.7 of its cross-entropy and 0.3 of its distillation at T = 3. The authors'
    distillation is a cross-entropy without T², so that 0.3 of theirs has the gradient of 0.3 / T²
    of ours, which is what ``kd`` becomes. Their exits are bottlenecks of convolutions, here 1×1
    convolutions, in the student's optimizer and never exported; none of it is published for label
    maps.

    A hint is 0.03 of the distance between an exit's features and the last stage's, of all exits but
    the deepest, as in the authors' code (a comment there says: but the shallowest). Theirs is the
    norm of the whole batch's difference, which grows with its size; here it is the mean of squares
    over places and channels, of the stage itself behind a 1×1
    convolution: no weight converts one into the other, so 0.03 is theirs by name alone.

    Args:
        pair: The student.
        ce: Of the labels in each exit.
        kd: Of the distillation in each exit, as published.
        tau: Temperature.
        hint: Weight of each hint, 0: none.
        stages: How many maps the backbone gives; None: as its config says.
    """
    number = pair.stages(given=stages)
    if number < 2:
        pair.fail(
            f'exits are on stages before the last, but the backbone gives {number}. Mend: '
            f"out_indices of the backbone; or dict(type='byot', stages=4) and taps=dict(stage0="
            "'backbone.layer1', …)"
        )
    if isinstance(tau, bool) or not isinstance(tau, int | float) or not 0 < tau < inf:
        pair.fail(f'tau must be a finite number above 0, got {tau!r}. Mend: tau=3.0')
    check_non_negative('kd', kd)
    own, last = pair.student, number - 1
    loss = dict(type='ExitLoss', ce=ce, kd=kd / tau**2, tau=tau)
    objectives = {
        f'exit{k}': dict(
            loss=dict(loss),
            reads=dict(student=f'{own}.stage{k}', teacher=f'{own}.logits', labels='batch.labels'),
        )
        for k in range(last)
    }
    for k in range(last - 1) if hint else ():
        objectives[f'hint{k}'] = dict(
            loss=dict(type='FeatureMatchingLoss'),
            reads=dict(student=f'{own}.stage{k}', teacher=f'{own}.stage{last}'),
            connectors=dict(student='auto'),
            weight=hint,
        )
    taps = {f'stage{k}': f'auto:stages[{k}]' for k in range(number)}
    return Plan(objectives=objectives, taps={'logits': 'auto', **taps})
