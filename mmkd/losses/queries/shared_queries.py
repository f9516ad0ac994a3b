"""Shared queries: both decoders are asked the same, so that answers need no matching."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Many, Map, OfBatch, Place
from mmkd.losses.functional import infinite_to_nan, no_autocast
from mmkd.losses.queries.asking import Asking, Queries, asking_of
from mmkd.losses.queries.query_answers import query_answers
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_count, check_non_negative, check_positive
from mmkd.utils.unwrap import unwrap

QUERIES = ('teacher', 'random')


@MODELS.register_module()
class SharedQueriesLoss(Loss):
    r"""Answers of two decoders to the same queries (KD-DETR); see :func:`query_answers`.

    Detectors of mmdet: DETR, Conditional DETR, DAB-DETR, Deformable DETR of one and of two stages,
    DINO. Their decoders run once more on what their encoders made of the images, with the teacher's
    queries, or with as many as ``number`` drawn anew at each step; torch's draws, which
    ExactResumeHook seeds. Each layer of the student's decoder learns what the last layer of the
    teacher's says, and the value is a mean over layers. A query counts as much as the teacher's
    likeliest class, σ(max_c); where its classes are a softmax, that of one that is no background.

    The teacher's queries are its weights; of Deformable DETR and DINO, ``asked``: what its decoder
    was asked on these images, content and references. Both decoders get the teacher's references,
    so that what makes the student's own learns nothing here.

    Random queries are normal numbers, as in the authors' code of DAB-DETR. Of Deformable DETR and
    DINO no code of theirs was found, and the draw is ours: references are uniform, points in the
    image or centre, width and height of boxes, so that the whole image is asked about; content and
    position are normal numbers, from which an embedding starts. Of two stages Deformable DETR's are
    what the teacher makes of such references, as it does of those that it picks.

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
        places=Many(),
        teacher_places=Many(),
        padding=OfBatch(whole=True),
        asked=Many(),
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
        self.asking: Asking | None = None

    def bind(self, place: Place) -> None:
        """Remember whose decoders are asked.

        Raises:
            ValueError: A member without such a decoder, or two that the same queries do not suit.
        """
        names = [str(place.reads[side]).split('.')[0] for side in ('student', 'teacher')]
        student, teacher = (place.runs.get(name) for name in names)
        where = f'objective {place.objective!r}'
        kinds = [
            _kind_of(f'{where}: {name}', getattr(run, 'model', None))
            for name, run in zip(names, (student, teacher), strict=True)
        ]
        models = student.model, teacher.model  # type: ignore[union-attr]
        _check_pair(where, kinds, models)
        if self.queries == 'teacher':
            _check_asked(where, kinds[1], names[1], teacher, place.reads)
        self.sides, self.asking = (student, teacher), kinds[1]

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        places: Tensor | list[Tensor],
        teacher_places: Tensor | list[Tensor],
        padding: Tensor,
        asked: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return the weighted loss.

        Args:
            student: What the student's encoder makes (N, Σ h·w, D).
            teacher: The same of the teacher, of places and channels of its own.
            places: The student's positional encoding (N, D, h, w), of several levels a list.
            teacher_places: The teacher's.
            padding: Bool (N, H, W), True where the batch's images are padded.
            asked: Of Deformable DETR and DINO, with ``queries='teacher'``: the teacher's content
                (N, Q, D), of Deformable DETR its position (N, Q, D), and its references (N, Q, 2
                or 4).
        """
        if self.sides is None or self.asking is None:
            raise RuntimeError(
                'SharedQueriesLoss asks decoders of which it has not been told. Mend: as an '
                "objective of a Distiller, or loss.bind(Place('…', reads, (), runs))"
            )
        ours, theirs = (_model_of(run) for run in self.sides)
        answer = self.asking.answer
        with torch.no_grad(), no_autocast(teacher):
            queries = self._queries(self.asking, theirs, asked)
            said, targets = answer(theirs, queries, teacher, _listed(teacher_places), padding)
            said, targets = said[-1], targets[-1]
            weight = _confidence(theirs, said.float())
        logits, boxes = answer(ours, queries, student, _listed(places), padding)
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

    def _queries(self, asking: Asking, teacher: Any, asked: Sequence[Tensor]) -> Queries:
        # both sides are asked what the teacher can be asked
        if self.queries == 'teacher':
            return asking.own(teacher, asked)
        return asking.draw(teacher, self.number)


def _model_of(run: Any) -> Any:
    """Return what a step runs: of a student what stands in its place in the Distiller."""
    modules = getattr(run, 'modules', None)
    return run.model if modules is None else unwrap(modules[run.name])


def _listed(places: Tensor | list[Tensor]) -> list[Tensor]:
    return places if isinstance(places, list) else [places]


def _confidence(model: Any, logits: Tensor) -> Tensor:
    """Return the score of the likeliest class of each query."""
    logits = infinite_to_nan(logits)
    if _by_sigmoid(model):
        return logits.amax(-1).sigmoid()
    return logits.softmax(-1)[..., :-1].amax(-1)  # the last one is background


def _by_sigmoid(model: Any) -> bool:
    return bool(getattr(model.bbox_head.loss_cls, 'use_sigmoid', False))


def _kind_of(where: str, model: Any) -> Asking:
    kind = asking_of(model)
    if kind is None:
        raise ValueError(
            f'{where} is no detector whose decoder can be asked other queries, got '
            f'{type(model).__name__}. Mend: live members DETR, ConditionalDETR, DABDETR without '
            'patterns, DeformableDETR or DINO of mmdet'
        )
    return kind


def _check_pair(where: str, kinds: Sequence[Asking], models: Sequence[Any]) -> None:
    found: dict[str, Sequence[Any]] = {'kind': [one.kind for one in kinds]}
    if kinds[0] is kinds[1]:
        ours, theirs = (kinds[0].alike(one) for one in models)
        found = {what: [ours[what], theirs[what]] for what in ours}
    found['class logits'] = [one.bbox_head.cls_out_channels for one in models]
    found['a sigmoid a class'] = [_by_sigmoid(one) for one in models]
    apart = {what: values for what, values in found.items() if values[0] != values[1]}
    if apart:
        names = ' and '.join(type(one).__name__ for one in models)
        raise ValueError(
            f'{where}: student and teacher ({names}) cannot be asked the same queries: {apart}. '
            'Mend: two detectors of one kind and of the same classes'
        )


def _check_asked(
    where: str, kind: Asking, teacher: str, run: Any, reads: Mapping[str, Any]
) -> None:
    """Refuse what is not the teacher's decoder's inputs, in their order."""
    read = reads.get('asked', [])
    paths = {f'{teacher}.{tap}': path.text for tap, path in run.taps.paths.items()}
    found = [paths.get(str(one)) for one in (read if isinstance(read, list) else [read])]
    if kind.parts and found != [*kind.taps.values()]:
        taps = ', '.join(f'{part}={tap!r}' for part, tap in kind.taps.items())
        raise ValueError(
            f"{where}: the teacher's queries are those that its decoder is asked on each image, "
            f'{[*kind.parts]}, but asked={read!r}. Mend: taps=dict({taps}) and '
            f'asked={[f"{teacher}.{part}" for part in kind.parts]}'
        )
