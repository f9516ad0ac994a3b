"""Plain logit distillation."""

from typing import Any

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs, of_task
from mmkd.registry import METHODS

NAMES = dict(classification='kd', text='soft')  # of the objective; 'pixel' of label maps


@METHODS.register_module(name='kd')
@needs(
    tasks=('segmentation', 'classification', 'text', 'depth', 'detection'),
    paper='Hinton et al., 2015, arXiv 1503.02531',
)
def kd(
    pair: Pair,
    tau: float | None = None,
    weight: float | None = None,
    task_weight: float | None = None,
) -> Plan:
    """The student learns the teacher's class probabilities: KL(teacher‖student) of the logits.

    Defaults: of an image's class 0.9 of it at T = 4 beside 0.1 of the labels, as RepDistiller's,
    T² being inside the loss; of label maps weight 10 at T = 1, as in Structured KD, whose code
    divides by the positions of one image: its 10 with N images a device would be 10 · N here; of
    sentences and of the bins of depth weight 1 at T = 1; of detectors a binary KL on the class
    scores of every level, weight 10 over the number of levels.

    Args:
        pair: The pair.
        tau: Temperature.
        weight: Of the objective; of detectors of all levels together.
        task_weight: Of the student's own losses.
    """
    if pair.kind == 'detection':
        return scores_of_levels(pair, tau, weight, task_weight)
    name = NAMES.get(pair.kind, 'pixel')
    objective = logits(
        pair,
        of_task(pair, tau, classification=4.0),
        of_task(pair, weight, segmentation=10.0, classification=0.9),
    )
    return Plan(
        objectives={name: objective},
        taps=dict(logits='auto'),
        task_weight=of_task(pair, task_weight, classification=0.1),
    )


def logits(pair: Pair, tau: float | None, weight: float | None) -> dict:
    """Return the objective on class logits; None leaves an option out, which is 1."""
    loss = dict(type='PixelWiseKLLoss') if tau is None else dict(type='PixelWiseKLLoss', tau=tau)
    return dict(loss=loss, **pair.on('logits'), **({} if weight is None else dict(weight=weight)))


def scores_of_levels(
    pair: Pair,
    tau: float | None = None,
    weight: float | None = None,
    task_weight: float | None = None,
) -> Plan:
    """Return the objectives on the class scores of every level of two detectors."""
    refuse_softmax(pair)
    levels = range(pair.levels())
    weight = 10.0 if weight is None else weight
    loss = dict(type='BinaryKLLoss') if tau is None else dict(type='BinaryKLLoss', tau=tau)
    return Plan(
        objectives={
            f'pixel{k}': dict(loss=dict(loss), **pair.on(f'score{k}'), weight=weight / len(levels))
            for k in levels
        },
        taps={f'score{k}': f'auto:logits[{k}]' for k in levels},
        task_weight=task_weight,
    )


def refuse_softmax(pair: Pair) -> None:
    """Refuse dense heads whose scores are a softmax with the background, not a yes or no each.

    Raises:
        ValueError: A member has such scores.
    """
    for member in (pair.student, pair.teacher):
        loss = getattr(getattr(pair.models.get(member), 'bbox_head', None), 'loss_cls', None)
        if not getattr(loss, 'use_sigmoid', type_of(loss) != 'CrossEntropyLoss'):
            pair.fail(
                f'the class scores of {member!r} are a softmax over its classes and the '
                'background, and the binary divergence here takes each class for a yes or no. '
                'Mend: loss_cls=dict(use_sigmoid=True, …) of both heads'
            )


def type_of(part: Any) -> str:
    """Return the name of the type of a part, described or built, without its scope."""
    return str(getattr(part, 'type', type(part).__name__)).split('.')[-1]
