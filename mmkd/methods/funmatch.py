"""Function matching: a patient teacher, one view for both, no labels."""

from mmkd.methods.kd import NAMES, logits
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='funmatch')
@needs(
    tasks=('segmentation', 'classification'),
    paper='Beyer et al., CVPR 2022, arXiv 2106.05237',
)
def funmatch(
    pair: Pair,
    tau: float = 1.0,
    weight: float = 1.0,
    mixup: float = 1.0,
    task_weight: float = 0.0,
) -> Plan:
    """The student learns the teacher's function on mixtures of images, by KL alone; be patient.

    KL(teacher‖student) of the logits at T = 1, weight 1, and no labels; teacher and student see the
    same mixture of two images, λ uniform. These are the settings of the authors' config for
    ImageNet (google-research/big_vision, ``proj/distill/bit_i1k.py``: ``distance_kw=dict(t=1.0)``,
    ``mixup=dict(p=1.0, n=2)``, 1,200 passes), a mean over images as here. What buys the gain there
    is the length: take several times the student's usual schedule, and all images that there are,
    with labels or without.

    Args:
        pair: The pair.
        tau: Temperature.
        weight: Of the objective.
        mixup: α of :class:`mmkd.noise.InputMixup`; 0 mixes nothing.
        task_weight: Of the student's own losses; above 0 mixes images without labels alone.
    """
    noise: list[dict] = []
    if mixup:
        noise = [dict(type='InputMixup', alpha=mixup)]
        if task_weight:
            noise[0]['images'] = 'unlabelled'
    return Plan(
        objectives={NAMES.get(pair.kind, 'pixel'): logits(pair, tau, weight)},
        taps=dict(logits='auto'),
        noise=noise,
        task_weight=task_weight,
    )
