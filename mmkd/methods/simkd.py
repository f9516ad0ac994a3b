"""SimKD: the student's classifier is the teacher's, behind a projector."""

from collections.abc import Mapping

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS

HEAD = 'model.decode_head'


@METHODS.register_module(name='simkd')
@needs(tasks=('segmentation',), paper='Chen et al., CVPR 2022, arXiv 2203.14001')
def simkd(
    pair: Pair,
    weight: float = 1.0,
    factor: int = 2,
    channels: int | None = None,
    task_weight: float = 0.0,
) -> Plan:
    """The student is its own up to a projector, and from there on the teacher's frozen classifier.

    Only features are compared, by squares: behind them both are the same. The student ships with
    projector and classifier, which ``mmkd export`` writes with it: its parameters grow, and its
    config needs mmkd. Nothing is published for label maps; the classifier is ``conv_seg``, the
    features are what it reads.

    Defaults: the authors' bottleneck with factor 2, weight 1 of the mean square over everything,
    no loss of labels and none of logits, as their script's; nothing is converted. They bring the
    larger of two maps to the smaller one, here the student's is resized to the teacher's.

    Args:
        pair: The pair; the teacher needs a checkpoint, whose classifier is taken.
        weight: Of the features.
        factor: What the projector divides the teacher's channels by in between.
        channels: Of what the teacher's classifier reads; None: as its config says.
        task_weight: Of the student's own losses, which reach the projector through the classifier.
    """
    student, teacher = (pair.models.get(one) for one in (pair.student, pair.teacher))
    own, theirs = (getattr(one, 'decode_head', None) for one in (student, teacher))
    config = getattr(own, '_config', None)
    channels = getattr(theirs, 'channels', None) if channels is None else channels
    if not isinstance(config, Mapping) or not isinstance(channels, int):
        pair.fail(
            'the student must be a config with one decode_head, and the config of the teacher say '
            "how many channels its classifier reads. Mend: dict(type='simkd', channels=512); or "
            'a head of its own, mmkd.BorrowedClassifier, in the config of the student'
        )
    classes = [getattr(one, 'num_classes', None) for one in (own, theirs)]
    if None not in classes and len(set(classes)) > 1:
        pair.fail(
            f'the student would say what the teacher says, but it has {classes[0]} classes and the '
            f'teacher {classes[1]}. Mend: a teacher of the same classes'
        )
    checkpoint = pair.checkpoints.get(pair.teacher)
    if checkpoint is None:  # a built teacher has weights, but no config could say which
        pair.fail(
            f'the student takes the classifier of {pair.teacher!r} from its file, and it has no '
            "checkpoint, so that a random one would be kept. Mend: teacher=dict(cfg='….py', "
            "checkpoint='….pth'), of a built teacher as well"
        )
    head = dict(
        _delete_=True,
        type='mmkd.BorrowedClassifier',
        head=dict(config),
        channels=channels,
        factor=factor,
        pretrained=checkpoint,
    )
    objective = dict(
        loss=dict(type='FeatureMatchingLoss'),
        **pair.on('feat'),
        connectors=dict(student='auto'),
        weight=weight,
    )
    return Plan(
        objectives=dict(simkd=objective),
        taps=dict(feat='auto:feature'),
        cfg_options={pair.student: {HEAD: head}},
        task_weight=task_weight,
    )
