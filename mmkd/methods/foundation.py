"""The mix by which foundation models are distilled: directions, and some of the values."""

from mmkd.methods.fitnet import TASKS, on_features
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='foundation')
@needs(tasks=TASKS, paper='as foundation models are distilled: UNIC, RADIO, Theia')
def foundation(
    pair: Pair,
    cosine: float = 0.5,
    huber: float = 0.5,
    weight: float = 1.0,
    regressor: str | dict = 'auto',
) -> Plan:
    """The student's last features point where the teacher's do, and have their values by half.

    A mix of 1 − cos and of Huber's penalty (δ = 1), both means over places, in one loss.

    Defaults are UNIC's halves, whose smooth L1 of β = 1 is Huber's of δ = 1; both average as here.
    RADIO's patches are ``cosine=.9, huber=.1``, as far as they are remembered. UNIC has several
    teachers, of which it leaves some out at random, and a projector for each; here is one teacher,
    and a 1×1 convolution where channels differ. Features of a ViT want its own normalisation of
    images.

    Args:
        pair: The pair.
        cosine: Weight of 1 − cos within the mix.
        huber: Weight of Huber's penalty within the mix.
        weight: Of the objective; of detectors of each level.
        regressor: Connector of the student.
    """
    loss = dict(type='FeatureMatchingLoss', penalty=dict(cosine=cosine, huber=huber))
    return on_features(pair, 'foundation', loss, weight, regressor)
