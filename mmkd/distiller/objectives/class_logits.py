"""Class logits: whether a tap is what its model says of its classes, and whether two agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from mmkd.losses.checks import OTHER_CLASSES, shape_of
from mmkd.tasks.base import class_logits_of, task_of

_MEND = (
    "Mend: tap class logits (of most segmentors 'decode_head.conv_seg'); features are compared by "
    'PairWiseAffinityLoss or FeatureL1Loss, tokens by HiddenCosineLoss'
)


@dataclass(frozen=True)
class LabelSet:
    """What a model's class logits are.

    Args:
        kind: What it is for, as :class:`mmkd.tasks.base.Task` says.
        classes: How many classes it knows; None where that is unknown, or where logits are not one
            a class and place (bins of depth, scores of anchors).
        channels: Channels of its logits: as many, or 1 where two classes are one sigmoid.
        names: Of its classes, where a data set says them; () where that is unknown.
    """

    kind: str
    classes: int | None = None
    channels: int | None = None
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)


def told(labels: LabelSet) -> str:
    """Return the classes of a label set, as errors print them.

    >>> told(LabelSet('segmentation', 2, 2, ('road', 'sky'))), told(LabelSet('segmentation', 2, 2))
    ('0 road, 1 sky', '2 classes of unknown names')
    """
    if labels.names:
        return ', '.join(f'{i} {name}' for i, name in enumerate(labels.names))
    return f'{labels.classes} classes of unknown names'


def label_set(model: nn.Module, names: Sequence[str] = ()) -> LabelSet:
    """Return what a model's class logits are.

    Args:
        model: The model.
        names: Of its classes, where a data set says them; as many of them as it knows.

    >>> label_set(nn.Linear(1, 1))
    LabelSet(kind='', classes=None, channels=None)
    """
    task = task_of(model)
    if not task.known:
        return LabelSet('')
    if task.class_logits is None:
        return LabelSet(task.kind)
    known = tuple(names) if len(names) == task.num_classes else ()
    return LabelSet(task.kind, task.num_classes, task.channels(model), known)


def check_class_logits(
    what: str,
    tensor: Tensor,
    labels: LabelSet,
    images: int | None = None,
    mend: str = _MEND,
) -> None:
    """Refuse a tensor that is not the class logits of its model, whatever its numbers happen to be.

    Where the model is of no known kind, only the axis of the batch is looked at.

    Args:
        what: How the error calls the tensor.
        tensor: What was tapped.
        labels: What the model's class logits are.
        images: How many images the batch holds, where that is known.
        mend: The way out.

    Raises:
        ValueError: No map of a segmentor or vector of a classifier, another number of channels than
            its classes, or an axis 0 that is not the batch.

    >>> import torch
    >>> check_class_logits('x', torch.zeros(1, 19, 4, 4), LabelSet('segmentation', 19, 19), 1)
    """
    dims, shape = class_logits_of(labels.kind) or (tensor.dim(), '')
    if tensor.dim() != dims:
        raise ValueError(
            f'{what} {shape_of(tensor)} is no {shape}, as class logits of a model for '
            f'{labels.kind} are. {mend}'
        )
    if images is not None and (tensor.dim() == 0 or len(tensor) != images):
        raise ValueError(
            f'{what} {shape_of(tensor)} are no class logits (N, C, …): axis 0 is not the batch, '
            f'which holds N={images}; layers, queries and proposals are no images. {mend}'
        )
    if labels.channels is not None and tensor.shape[1] not in (labels.channels, labels.classes):
        raise ValueError(
            f'{what} {shape_of(tensor)} has {tensor.shape[1]} channels, but the class logits of '
            f'its model have {labels.channels}. {mend}'
        )


def check_same_labels(what: str, labels: Mapping[str, LabelSet]) -> None:
    """Refuse to compare class logits of models that know different numbers of classes.

    >>> check_same_labels('it', dict(a=LabelSet('depth'), b=LabelSet('segmentation', 19, 19)))

    Args:
        what: How the error calls what compares them.
        labels: Name of a tensor -> what its model's class logits are.

    Raises:
        ValueError: Names each one's number.
    """
    known = {name: one.classes for name, one in labels.items() if one.classes is not None}
    if len(set(known.values())) > 1:
        named = {f'{name}: {told(one)}' for name, one in labels.items() if one.names}
        raise ValueError(
            f'{what} compares class logits of models that know other classes: {known}. '
            f"{OTHER_CLASSES}; or class_map= of the objective, the student's class of each of the "
            "teacher's (class_map='names' where names are equal)"
            + f'. {"; ".join(sorted(named))}'
            * bool(named)
        )
