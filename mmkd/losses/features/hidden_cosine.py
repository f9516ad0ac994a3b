"""Cosine distance of hidden states: the second part of KD from internal representations."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import shape_of
from mmkd.losses.functional import cosines, masked_mean, no_autocast, widen
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice

TOKENS = (None, 'first', 'mean', 'class')


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean cosine distance of hidden states.

    Paper: Aguilar et al., Knowledge Distillation from Internal Representations, AAAI 2020, arXiv
    1910.03723, the cosine loss over the [CLS] states of matched layers. No code of the authors is
    known.

    .. math:: L_{cos} = \frac{1}{|V|} \sum_{i \in V} (1 - \cos(h^T_i, h^S_i))

    Normaliser: the valid states V of the whole batch. A zero vector has cosine 0 and a finite
    gradient.

    Args:
        student: States (N, D) or (N, L, D).
        teacher: States of the same shape; receives no gradient.
        mask: Bool (N,) or (N, L), True where a state counts.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: a mask that is not bool.

    Examples:
        >>> teacher = torch.tensor([[0., 2.], [4., 3.]])
        >>> hidden_cosine(torch.tensor([[1., 0.], [3., 4.]]), teacher)  # (1 + 0.04) / 2
        tensor(0.5200)
    """
    if student.dim() not in (2, 3) or student.shape != teacher.shape:
        raise ValueError(
            'hidden cosine needs states (N, D) or (N, L, D) of one shape, got student '
            f'{shape_of(student)}, teacher {shape_of(teacher)}; mend: a linear connector to the '
            "width of the teacher, connectors=dict(student='auto')"
        )
    _check_mask(mask, student.shape[:-1])
    with no_autocast(student):
        student, teacher = widen(student, teacher.detach())
        if mask is not None:  # before the norms: 0 · NaN is NaN
            student, teacher = (
                x.where(mask[..., None], x.new_zeros(())) for x in (student, teacher)
            )
        distance = 1 - cosines(student, teacher)
        return masked_mean(distance, mask)


@MODELS.register_module()
class HiddenCosineLoss(Loss):
    r"""Cosine distance of hidden states, of a chosen token; see :func:`hidden_cosine`.

    Args:
        token: Which states are compared. None: all that is given, (N, D) or (N, L, D). 'first': the
            first token of (N, L, D), which is [CLS]. 'mean': the mean over the tokens of (N, L, D),
            or over the places of a map (N, D, H, W), the stand-in for [CLS] where there is none;
            under a mask, of those that count. 'class': one prototype for each class and image of a
            map, the mean state of its places; needs ``labels``.
        ignore_index: The label of a place that has no class.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: shapes that do not fit; labels that are missing or not of the map's size; a mask
            with one token.

    Examples:
        >>> teacher = torch.tensor([[[0., 1.], [9., 9.]]])
        >>> HiddenCosineLoss(token='first')(torch.tensor([[[1., 0.], [9., 9.]]]), teacher)
        tensor(1.)
    """

    roles = dict(student=Map(tokens=True), teacher=Map(tokens=True))

    def __init__(
        self,
        token: str | None = None,
        ignore_index: int = 255,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_choice('token', token, TOKENS)
        self.token, self.ignore_index = token, ignore_index

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted loss.

        Args:
            student: States (N, D), (N, L, D) or a map (N, D, H, W).
            teacher: The same of the teacher.
            mask: Bool, the shape of the states without D.
            labels: Classes (N, H, W) for token='class'.
        """
        self._check(student, teacher, mask, labels)
        with no_autocast(student):
            student, teacher = widen(student, teacher.detach())
            if self.token == 'class':
                student, teacher = prototypes(labels, self.ignore_index, student, teacher)  # type: ignore[arg-type]
                return self.loss_weight * (
                    hidden_cosine(student, teacher) if len(student) else student.sum()
                )
            student, teacher = (_tokens(x) for x in (student, teacher))
            mask = mask if mask is None else mask.flatten(1) if student.dim() == 3 else mask
            if self.token == 'first':
                student, teacher = student[:, 0], teacher[:, 0]
            elif self.token == 'mean':
                counted = None if mask is None else mask.any(1)
                student, teacher = (_mean(x, mask) for x in (student, teacher))
                mask = counted
            return self.loss_weight * hidden_cosine(student, teacher, mask)

    def _check(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, labels: Tensor | None
    ) -> None:
        shapes = f'student {shape_of(student)}, teacher {shape_of(teacher)}'
        allowed = {'first': (3,), 'mean': (3, 4), 'class': (4,)}.get(self.token or '', (2, 3, 4))
        if student.dim() not in allowed or student.shape != teacher.shape:
            kinds = {2: '(N, D)', 3: '(N, L, D)', 4: '(N, D, H, W)'}
            raise ValueError(
                f'HiddenCosineLoss(token={self.token!r}) needs states '
                f'{" or ".join(kinds[d] for d in allowed)} of one shape, got {shapes}; mend: '
                "connectors=dict(student='auto') for another width or size, or another token"
            )
        size = (len(student), *student.shape[2:])
        if self.token == 'class' and (labels is None or tuple(labels.shape) != size):
            raise ValueError(
                f"token='class' needs labels {size} for the map {shape_of(student)}, got "
                f'{None if labels is None else shape_of(labels)}; mend: '
                "reads=dict(labels='batch.labels')"
            )
        if mask is not None and self.token in ('first', 'class'):
            raise ValueError(f'token={self.token!r} takes no mask; mend: drop reads=dict(mask=…)')
        _check_mask(mask, size if student.dim() == 4 else student.shape[:-1])


def prototypes(labels: Tensor, ignore_index: int, *maps: Tensor) -> list[Tensor]:
    """Return the mean state of every class that an image shows, (P, D), of maps (N, D, H, W).

    >>> prototypes(torch.tensor([[[0, 0, 1]]]), 255, torch.tensor([[[[1., 3., 5.]]]]))[0].tolist()
    [[2.0], [5.0]]
    """
    n = len(labels)
    valid = (labels.flatten() >= 0) & (labels.flatten() != ignore_index)
    image = torch.arange(n, device=labels.device).repeat_interleave(labels[0].numel())
    classes = int(labels.flatten()[valid].max()) + 1 if bool(valid.any()) else 1
    group, index = torch.unique((image * classes + labels.flatten())[valid], return_inverse=True)
    found = []
    for x in maps:
        states = x.movedim(1, -1).flatten(0, 2)[valid]
        total = states.new_zeros(len(group), x.shape[1]).index_add(0, index, states)
        found.append(total / index.bincount(minlength=len(group))[:, None])
    return found


def _check_mask(mask: Tensor | None, places: Sequence[int]) -> None:
    if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != tuple(places)):
        kind = TypeError if mask.dtype != torch.bool else ValueError
        raise kind(
            f'mask must be a bool tensor {tuple(places)}, True where a state counts, got '
            f'{mask.dtype} {shape_of(mask)}'
        )


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return x.mean(1)
    return x.where(mask[..., None], x.new_zeros(())).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
