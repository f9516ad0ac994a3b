"""QUEST: the teacher's features as words of a vocabulary."""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, last_map, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='quest')
@needs(
    tasks=('segmentation', 'classification'),
    paper='Jain et al., ECCV 2020, arXiv 1912.01540',
)
def quest(
    pair: Pair,
    num_words: int = 256,
    tau: float | str = 'auto',
    gamma: float = 3.0,
    weight: float = 1.0,
) -> Plan:
    """The student says which words of a vocabulary the teacher's last features are near to.

    The vocabulary is fitted by k-means before the first step, by mmkd.VocabularyHook.

    Defaults are the paper's weights 1 and 1 (2 to 20 for some of its pairs) and gamma = 3. It has
    4096 words and tau = 0.2 for a WRN-40-2 on CIFAR-100: tau is in units of squared distances, so
    that 'auto' takes the one at which four words share a place. The equation prints a sum over
    places; the authors' code averages, as here, and its temperature multiplies: t = 1 / tau.

    Args:
        pair: The pair.
        num_words: Words of the vocabulary; 1024 for Cityscapes.
        tau: Temperature of the teacher's assignment.
        gamma: Factor of the student's cosines.
        weight: Of the objective.
    """
    loss = dict(type='AssignmentKLLoss', num_words=num_words, tau=tau, gamma=gamma)
    return Plan(
        objectives=dict(quest=dict(loss=loss, **pair.on('feat'), weight=weight)),
        taps=dict(feat=last_map(pair)),
        hooks=[dict(type='mmkd.VocabularyHook')],
    )
