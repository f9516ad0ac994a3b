"""Shared queries: both decoders are asked the same, so that answers need no matching."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.base import Loss, Map, OfBatch, Place
from mmkd.losses.functional import infinite_to_nan, no_autocast
from mmkd.losses.queries.query_answers import query_answers
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_count, check_non_negative, check_positive
from mmkd.utils.unwrap import unwrap

QUERIES = ('teacher', 'random')
READS = {'query', 'query_pos', 'memory', 'memory_mask', 'memory_pos'}  # of a decoder


@MODELS.register_module()
class SharedQueriesLoss(Loss):
    r"""Answers of two decoders to the same queries (KD-DETR); see :func:`query_answers`.

    Detectors of mmdet whose queries are learned numbers: DETR, Conditional DETR, DAB-DETR. Their
    decoders run once more on what their encoders made of the images, with the queries that the
    teacher has learned, or with as many as ``number`` drawn anew from a normal distribution at each
    step; torch's draws, which ExactResumeHook seeds. Each layer of the student's decoder learns
    what the last layer of the teacher's says, and the value is a mean over layers. A query counts
    as much as the teacher's likeliest class, σ(max_c); where its classes are a softmax, that of one
    that is no background.

    The student's decoder and head learn from it, and through its encoder the backbone. Nothing of
    it is in the checkpoint or in an exported student.

    Args:
        queries: 'teacher' or 'random'.
        number: Of random queries.
        tau: Temperature of the classes.
        classes: Weight of the classes.
        l1: Weight of the distance of boxes.
        giou: Weight of their overlap.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: An option out of range.
        RuntimeError: It stands in no Distiller, which tells it of the decoders.
    """

    roles = dict(
        student=Map(alike=()),
        teacher=Map(alike=()),
        places=Map(alike=()),
        teacher_places=Map(alike=()),
        padding=OfBatch(whole=True),
    )

    def __init__(
        self,
        queries: str = 'teacher',
        number: int = 300,
        tau: float = 10.0,
        classes: float = 1.0,
        l1: float = 5.0,
        giou: float = 2.0,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_choice('queries', queries, QUERIES)
        check_count('number', number, 1)
        check_positive('tau', tau)
        for name, value in dict(classes=classes, l1=l1, giou=giou).items():
            check_non_negative(name, value)
        self.queries, self.number, self.tau = queries, number, tau
        self.classes, self.l1, self.giou = classes, l1, giou
        # Runs, and not their models: no modules of the loss, and a copy has the copied student.
        self.sides: tuple[Any, Any] | None = None

    def bind(self, place: Place) -> None:
        """Remember whose decoders are asked.

        Raises:
            ValueError: A member without such a decoder, or two that the same queries do not suit.
        """
        names = [str(place.reads[side]).split('.')[0] for side in ('student', 'teacher')]
        student, teacher = (place.runs.get(name) for name in names)
        where = f'objective {place.objective!r}'
        for name, run in zip(names, (student, teacher), strict=True):
            _check_decoder(f'{where}: {name}', getattr(run, 'model', None))
        _check_pair(where, student.model, teacher.model)  # type: ignore[union-attr]
        self.sides = student, teacher

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        places: Tensor,
        teacher_places: Tensor,
        padding: Tensor,
    ) -> Tensor:
        """Return the weighted loss.

        Args:
            student: What the student's encoder makes (N, h·w, D).
            teacher: The same of the teacher, of places and channels of its own.
            places: The student's positional encoding (N, D, h, w).
            teacher_places: The teacher's.
            padding: Bool (N, H, W), True where the batch's images are padded.
        """
        if self.sides is None:
            raise RuntimeError(
                'SharedQueriesLoss asks decoders of which it has not been told. Mend: as an '
                "objective of a Distiller, or loss.bind(Place('…', reads, (), runs))"
            )
        ours, theirs = (_model_of(run) for run in self.sides)
        queries = self._draw(theirs)
        logits, boxes = _ask(ours, queries, student, places, padding)
        with torch.no_grad(), no_autocast(teacher):
            said, targets = _ask(theirs, queries, teacher, teacher_places, padding)
            said, targets = said[-1], targets[-1]
            weight = _confidence(theirs, said.float())
        layers = len(logits)
        value = query_answers(
            logits,
            said.expand(layers, *said.shape),
            boxes,
            targets.expand(layers, *targets.shape),
            weight.expand(layers, *weight.shape),
            self.tau,
            self.classes,
            self.l1,
            self.giou,
        )
        return self.loss_weight * value

    def _draw(self, teacher: Any) -> Tensor:
        """Return the queries (Q, d)."""
        learned = teacher.query_embedding.weight.detach()
        if self.queries == 'teacher':
            return learned
        drawn = torch.randn(self.number, learned.shape[1], device=learned.device)
        return drawn.to(learned.dtype)  # both sides are asked what the teacher can be asked


def _model_of(run: Any) -> Any:
    """Return what a step runs: of a student what stands in its place in the Distiller."""
    modules = getattr(run, 'modules', None)
    return run.model if modules is None else unwrap(modules[run.name])


def _ask(
    model: Any, queries: Tensor, memory: Tensor, places: Tensor, padding: Tensor
) -> tuple[Tensor, Tensor]:
    """Return class logits (layers, N, Q, C) and boxes (layers, N, Q, 4) of a decoder."""
    number, size = len(memory), places.shape[2:]
    # not that of the memory: autocast makes it coarser of one side alone
    dtype = model.query_embedding.weight.dtype
    asked = queries.to(dtype).repeat(number, 1, 1)
    # as mmdet brings it to the size of the map
    mask = F.interpolate(padding[:, None].float(), size=size)[:, 0].bool().flatten(1)
    made = model.forward_decoder(
        query=asked.new_zeros(*asked.shape[:2], model.embed_dims),
        query_pos=asked,
        memory=memory.to(dtype),
        memory_mask=mask,
        memory_pos=places.to(dtype).flatten(2).mT,
    )
    return model.bbox_head(**made)


def _confidence(model: Any, logits: Tensor) -> Tensor:
    """Return the score of the likeliest class of each query."""
    logits = infinite_to_nan(logits)
    if _by_sigmoid(model):
        return logits.amax(-1).sigmoid()
    return logits.softmax(-1)[..., :-1].amax(-1)  # the last one is background


def _by_sigmoid(model: Any) -> bool:
    return bool(getattr(model.bbox_head.loss_cls, 'use_sigmoid', False))


def _check_decoder(where: str, model: Any) -> None:
    ask = getattr(model, 'forward_decoder', None)
    reads = set() if ask is None else set(inspect.signature(ask).parameters)
    if reads != READS or not hasattr(model, 'query_embedding') or hasattr(model, 'patterns'):
        raise ValueError(
            f'{where} is no detector whose decoder can be asked other queries, got '
            f'{type(model).__name__}. Mend: live members DETR, ConditionalDETR or DABDETR of mmdet '
            'without patterns'
        )


def _check_pair(where: str, student: Any, teacher: Any) -> None:
    found = {
        'numbers a query': [one.query_embedding.weight.shape[1] for one in (student, teacher)],
        'class logits': [one.bbox_head.cls_out_channels for one in (student, teacher)],
        'a sigmoid a class': [_by_sigmoid(one) for one in (student, teacher)],
    }
    apart = {what: values for what, values in found.items() if values[0] != values[1]}
    if apart:
        raise ValueError(
            f'{where}: student and teacher cannot be asked the same queries: {apart}. Mend: two '
            'detectors of one kind and of the same classes'
        )
