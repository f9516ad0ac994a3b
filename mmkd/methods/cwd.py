"""CWD: where each channel is active."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS
from mmkd.utils.checks import check_choice


@METHODS.register_module(name='cwd')
@needs(tasks=('segmentation',), paper='Shu et al., ICCV 2021, arXiv 2011.13256')
def cwd(
    pair: Pair,
    on: str = 'logits',
    tau: float = 4.0,
    weight: float | None = None,
    regressor: str | dict | None = None,
) -> Plan:
    """Each channel of the student is active where the teacher's is: channel-wise KL.

    Defaults are the authors' τ = 4 and weights 3 on logits and 50 on features, whose normaliser is
    ours: their code divides by images and channels and multiplies by τ². The runs of their tables
    add a pixel-wise term of weight 10 and a holistic one of weight 0.001 (their folder's ``kd`` and
    ``adv``): method=['cwd', dict(type='skd', pair_wise=0, holistic=0.001)]. On features a 1×1
    convolution without bias makes the student's channels equal, where they differ.

    Args:
        pair: The pair.
        on: 'logits' or 'feature', what the classifier reads.
        tau: Temperature.
        weight: Of the objective: 3 on logits, 50 on features.
        regressor: Connector of the student on features.
    """
    check_choice('on', on, ('logits', 'feature'))
    weight = (3.0 if on == 'logits' else 50.0) if weight is None else weight
    if regressor is None:
        regressor = dict(type='auto', bias=False, always=False)
    tap, point = ('logits', 'auto') if on == 'logits' else ('feat', 'auto:feature')
    objective = dict(
        loss=dict(type='ChannelWiseKLLoss', tau=tau),
        **pair.on(tap),
        connectors=dict(teacher='auto') if on == 'logits' else dict(student=regressor),
        weight=weight,
    )
    return Plan(objectives=dict(cwd=objective), taps={tap: point})
