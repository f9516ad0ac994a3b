"""SimKD: the student's classifier is the teacher's, behind a projector."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS


@METHODS.register_module(name='simkd')
@needs(tasks=('segmentation', 'classification'), paper='Chen et al., CVPR 2022, arXiv 2203.14001')
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
    config needs mmkd. Of images, as in the paper, the projector is on the map before pooling, and
    student and teacher end in a linear layer ``head.fc`` behind it, as mmkd's and those of
    mmpretrain's LinearClsHead do. Of label maps nothing is published; the classifier is
    ``conv_seg``, the features are what it reads.

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
    find, borrow, student, teacher = _channels_of_maps, _for_maps, 'auto:feature', 'auto:feature'
    if pair.kind == 'classification':
        find, borrow, student, teacher = _channels_of_images, _for_images, 'projector', _last(pair)
    channels = find(pair) if channels is None else channels
    options = borrow(pair, channels, factor)
    objective = dict(
        loss=dict(type='FeatureMatchingLoss'),
        **pair.on('feat'),
        # of size alone: what it learned would not be exported
        connectors=dict(student=dict(type='Connector', in_channels=channels, resize=True)),
        weight=weight,
    )
    return Plan(
        objectives=dict(simkd=objective),
        member_taps={pair.student: dict(feat=student), pair.teacher: dict(feat=teacher)},
        cfg_options={pair.student: options},
        task_weight=task_weight,
    )


def _channels_of_maps(pair: Pair) -> Any:
    """Return how many channels the classifier of a segmentor reads, None where nothing says it."""
    return getattr(getattr(pair.models.get(pair.teacher), 'decode_head', None), 'channels', None)


def _channels_of_images(pair: Pair) -> Any:
    """Return how many channels ``head.fc`` of a classifier reads, None where nothing says it."""
    teacher = pair.models.get(pair.teacher)
    head = getattr(teacher, 'head', None)
    # in_channels of a borrowed classifier are those in front of its projector
    places = ((teacher, 'channels'), (teacher, 'in_channels'), (head, 'in_channels'))
    return next((n for one, name in places if (n := getattr(one, name, None)) is not None), None)


def _last(pair: Pair) -> str:
    """Return the tap of the map that a classifier of images pools."""
    teacher = pair.models.get(pair.teacher)
    name = getattr(teacher, 'type_name', type(teacher).__name__)
    return 'projector' if name == 'BorrowedImageClassifier' else 'auto:stages[-1]'


def _for_maps(pair: Pair, channels: int | None, factor: int) -> dict[str, Any]:
    """Return the options that make a segmentor's head borrow."""
    student, teacher = (pair.models.get(one) for one in (pair.student, pair.teacher))
    own, theirs = (getattr(one, 'decode_head', None) for one in (student, teacher))
    if isinstance(theirs, list | tuple | nn.ModuleList):
        pair.fail(
            f'{pair.teacher!r} has {len(theirs)} decode heads, one behind the other, and which of '
            'them is to be borrowed is not known. Mend: a teacher with one decode_head; or cwd, '
            'pkd, which compare maps'
        )
    config = getattr(own, '_config', None)
    if not isinstance(config, Mapping) or not isinstance(channels, int):
        pair.fail(
            'the student must be a config with one decode_head, and the config of the teacher say '
            "how many channels its classifier reads. Mend: dict(type='simkd', channels=512); or "
            'a head of its own, mmkd.BorrowedClassifier, in the config of the student'
        )
    _check_classes(pair, (own,), (theirs, getattr(theirs, 'head', None)))
    head = dict(
        _delete_=True,
        type='mmkd.BorrowedClassifier',
        head=dict(config),
        channels=channels,
        factor=factor,
        pretrained=_checkpoint(pair),
        member=pair.teacher,
    )
    return {'model.decode_head': head}


def _for_images(pair: Pair, channels: int | None, factor: int) -> dict[str, Any]:
    """Return the options that make a classifier of images borrow."""
    student, teacher = (pair.models.get(one) for one in (pair.student, pair.teacher))
    config = getattr(student, '_config', None)
    head = getattr(teacher, 'head', None)
    kind = getattr(student, 'type_name', '')
    if not isinstance(config, Mapping) or kind != 'ImageClassifier' or 'in_channels' not in config:
        pair.fail(
            'of images the student must be the config of a mmkd.ImageClassifier, got '
            f'{kind or type(student).__name__}. Mend: its backbone in one, dict(type='
            "'mmkd.ImageClassifier', backbone=dict(…), num_classes=10, in_channels=64)"
        )
    if not isinstance(channels, int):
        pair.fail(
            'the config of the teacher must say how many channels its classifier reads. Mend: '
            "dict(type='simkd', channels=512)"
        )
    _check_classes(pair, (student,), (teacher, head))
    model = dict(
        _delete_=True,
        **{key: value for key, value in config.items() if key != 'type'},
        type='mmkd.BorrowedImageClassifier',
        channels=channels,
        factor=factor,
        pretrained=_checkpoint(pair),
        member=pair.teacher,
    )
    return dict(model=model)


def _check_classes(pair: Pair, own: tuple, theirs: tuple) -> None:
    """Refuse a teacher of other classes, where both configs say how many there are."""
    found: list[Any] = []
    for parts in (own, theirs):
        numbers = [getattr(part, 'num_classes', None) for part in parts]
        found.append(next((n for n in numbers if n is not None), None))
    if None not in found and len(set(found)) > 1:
        pair.fail(
            f'the student would say what the teacher says, but it has {found[0]} classes and the '
            f'teacher {found[1]}. Mend: a teacher of the same classes'
        )


def _checkpoint(pair: Pair) -> str:
    """Return the file of the teacher, whose classifier is taken."""
    checkpoint = pair.checkpoints.get(pair.teacher)
    if checkpoint is None:  # a built teacher has weights, but no config could say which
        pair.fail(
            f'the student takes the classifier of {pair.teacher!r} from its file, and it has no '
            "checkpoint, so that a random one would be kept. Mend: teacher=dict(cfg='….py', "
            "checkpoint='….pth'), of a built teacher as well"
        )
    return checkpoint
