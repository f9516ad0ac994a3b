"""MasKD: where tokens of the teacher look."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS
from mmkd.utils.checks import check_choice


@METHODS.register_module(name='maskd')
@needs(tasks=('segmentation',), paper='Huang et al., ICLR 2023, arXiv 2205.14589')
def maskd(
    pair: Pair,
    on: str = 'logits',
    num_tokens: int = 8,
    power: int = 1,
    steps: int = 1000,
    weight: float = 1.0,
) -> Plan:
    """The student's map is the teacher's where tokens look that keep the teacher's task.

    The tokens are fitted to the frozen teacher before the first step, by mmkd.FitHook, on the
    training images and their labels; each step is a forward and a backward of the teacher's head.

    Defaults are those of the authors' code for label maps: on logits, 8 tokens, weight 1 of half a
    weighted mean, and nothing is converted. It compares the auxiliary heads' logits too, of weight
    0.4, here the main head's alone: a teacher that predicts has no others. There both maps are
    multiplied by the mask before the difference is squared, which is power=2 here; the default
    squares the difference alone, so that a mask of one number everywhere gives half the mean
    square. Its tokens are fitted in 10,000 steps of 16 crops, here in 1000 of whole images.

    Args:
        pair: The pair.
        on: 'logits' or 'feature', what the classifier reads.
        num_tokens: How many tokens.
        power: Of the mask in the numerator, 1 or 2.
        steps: That the tokens are fitted in.
        weight: Of the objective.
    """
    check_choice('on', on, ('logits', 'feature'))
    tap, point = ('logits', 'auto') if on == 'logits' else ('feat', 'auto:feature')
    objective = dict(
        loss=dict(
            type='MaskedTokenLoss', num_tokens=num_tokens, power=power, fit=dict(steps=steps)
        ),
        **pair.on(tap),
        connectors=dict(teacher='auto') if on == 'logits' else dict(student='auto'),
        weight=weight,
    )
    return Plan(
        objectives=dict(maskd=objective), taps={tap: point}, hooks=[dict(type='mmkd.FitHook')]
    )
