"""CRD: which image was it, among those that the teacher saw before?"""

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='crd')
@needs(tasks=('classification',), paper='Tian et al., ICLR 2020, arXiv 1910.10699')
def crd(
    pair: Pair,
    weight: float = 0.8,
    size: int = 16384,
    embed: int | None = 128,
    tau: float = 0.07,
    labels: bool = True,
) -> Plan:
    """The student's vector of an image is told apart from those of others beside the teacher's.

    Vectors are what the classifiers read, each embedded by a linear layer that is trained.

    Defaults are RepDistiller's: weight 0.8, 16,384 keys, 128 dimensions, temperature 0.07. Both
    codes average over images and sum over keys and both sides, so that nothing is converted. Its
    keys are drawn from a memory of all images of the training set, of other labels alone; here they
    are those of other labels among the last 16,384 images (fewer in the first steps), see
    :class:`mmkd.losses.QueueContrastLoss`.

    Args:
        pair: The pair.
        weight: Of the objective.
        size: Places of the queues.
        embed: Width of the embeddings; None: none, a trained layer brings the student's vector to
            the teacher's channels.
        tau: Temperature.
        labels: Whether images of the same class are left out of the keys, and images without labels
            are passed over; if not, ``size`` is best below the number of training images.
    """
    reads = dict(labels='batch.labels', mask='batch.labelled') if labels else {}
    loss = dict(type='QueueContrastLoss', size=size, tau=tau, compare='nce', embed=embed)
    objective = dict(loss=loss, **pair.on('feat', **reads), weight=weight)
    if embed is None:
        objective['connectors'] = dict(student='auto')
    return Plan(objectives=dict(crd=objective), taps=dict(feat='auto:feature'))
