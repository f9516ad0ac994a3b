"""What a model is for, as its heads tell: which labels it learns from, and of how many classes."""

from dataclasses import dataclass
from typing import Any

from torch import nn

SEGMENTATION, DEPTH, DETECTION, CLASSIFICATION, UNKNOWN = (
    'segmentation',
    'depth',
    'detection',
    'classification',
    '',
)


@dataclass(frozen=True)
class Task:
    """What a model learns.

    Args:
        kind: SEGMENTATION, DEPTH, DETECTION, CLASSIFICATION, or UNKNOWN.
        num_classes: Of its last head; None where it has none, or sees no classes (mmdet's RPN).
        depth: The range of depth that it knows, in its own unit.
    """

    kind: str
    num_classes: int | None = None
    depth: tuple[float, float] = (0.0, 1.0)


def task_of(model: Any) -> Task:
    """Return what a model of mmseg, mmdet or mmpretrain, or one that looks like these, learns.

    Segmentors and depth estimators have a ``decode_head``, the latter's with a ``max_depth``;
    detectors a ``bbox_head`` or ``roi_head``; classifiers a ``head``, or ``num_classes`` of their
    own.

    >>> task_of(nn.Linear(1, 1))
    Task(kind='', num_classes=None, depth=(0.0, 1.0))
    """
    head: Any = getattr(model, 'decode_head', None)
    if head is not None:
        last: Any = head[-1] if isinstance(head, nn.ModuleList) else head
        if hasattr(last, 'max_depth'):
            return Task(DEPTH, depth=(getattr(last, 'min_depth', 0.0), float(last.max_depth)))
        return Task(SEGMENTATION, _number(model, last))
    for owner in (model, getattr(model, 'roi_head', None)):
        head = getattr(owner, 'bbox_head', None)
        if (
            head is not None and type(model).__name__ == 'RPN'
        ):  # it takes every box for one of class 0
            return Task(DETECTION)
        if head is not None:  # a cascade has one a stage
            return Task(DETECTION, _number(head[-1] if isinstance(head, nn.ModuleList) else head))
    if hasattr(model, 'head') or hasattr(model, 'num_classes'):
        return Task(
            CLASSIFICATION, _number(model, getattr(model, 'head', None))
        )  # mmpretrain's keep it in the head
    return Task(UNKNOWN)


def _number(*owners: Any) -> int | None:
    return next(
        (
            n
            for n in (getattr(owner, 'num_classes', None) for owner in owners)
            if isinstance(n, int)
        ),
        None,
    )


def check_same_places(
    objective: str, tapped: dict[str, tuple[nn.Module, str]], by_channel: bool = True
) -> None:
    """Refuse tensors of two members that look alike and do not mean the same.

    Args:
        objective: How errors call what compares them.
        tapped: ``'member.tap'`` -> the member's model and the path of the module whose tensor is
            read.
        by_channel: Whether channel k of one is compared with channel k of the other; affinities are
            not.

    Raises:
        ValueError: A second stage of detectors, which sees each one's own proposals; bins of depth
            of other ranges.
    """
    second = sorted(
        {name.split('.')[0] for name, (_, path) in tapped.items() if path.startswith('roi_head.')}
    )
    if len(second) > 1:
        raise ValueError(
            f'objective {objective!r} compares the roi_head of {" and ".join(second)}, which see '
            'proposals of their own: row i of one is another box than row i of the other. Mend: '
            'tap the '
            'neck or the rpn_head'
        )
    bins = {
        name: task_of(model).depth
        for name, (model, path) in tapped.items()
        if path.endswith('.conv_seg') and task_of(model).kind == DEPTH
    }
    if by_channel and len(set(bins.values())) > 1:
        raise ValueError(
            f'objective {objective!r} compares bins of depth of other ranges: {bins}, so bin k is '
            f'another '
            'depth for each. Mend: the same min_depth and max_depth, or tap metres '
            '(decode_head.depth)'
        )


def check_same_classes(models: dict[str, nn.Module], what: str) -> None:
    """Refuse models that learn from, or predict, one label but have different numbers of classes.

    Raises:
        ValueError: Names each model's number.
    """
    classes = {name: task_of(model).num_classes for name, model in models.items()}
    if len({number for number in classes.values() if number is not None}) > 1:
        raise ValueError(
            f'{what} disagree on classes: {classes}. Mend: the same classes, in the same order, '
            f'for all '
            'of them'
        )
