"""KL over attention rows: whom does each token look at?"""

import math

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map, OfBatch
from mmkd.losses.checks import shape_of
from mmkd.losses.functional import (
    divergence_terms,
    fill_masked,
    infinite_to_nan,
    no_autocast,
    widen,
)
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_count

HEADS = ('match', 'mean')


def attention_kl(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    heads: str = 'match',
    rows: int | None = None,
    student_key: Tensor | None = None,
    teacher_key: Tensor | None = None,
    key_mask: Tensor | None = None,
) -> Tensor:
    r"""Divergence between the attention distributions of student and teacher, row by row.

    Paper: Aguilar et al., Knowledge Distillation from Internal Representations, AAAI 2020, arXiv
    1910.03723, the attention loss. No code of the authors is known.

    .. math:: L_{kl} = \frac{1}{h |V|} \sum_{i \in V} \sum_{a=1}^{h} \sum_k
              A^T_{aik} \ln \frac{A^T_{aik}}{A^S_{aik}}

    Normaliser: summed over keys k, averaged over heads and over the valid rows V (queries) of the
    whole batch; the paper's 1/L, with the true length of every sentence. There is no temperature,
    so no factor. Probabilities :math:`A^S` are clamped at the dtype's smallest normal number inside
    the logarithm, those of queries and keys have an exact one; where :math:`A^T` is 0 a key adds 0.

    Args:
        student: Attention probabilities (N, h, Q, K): after softmax, before dropout. With keys:
            queries (N, h, Q, d).
        teacher: The same of the teacher; receives no gradient.
        mask: Bool (N, Q), True where a row counts; padding does not.
        heads: 'match' compares head by head, which means something where the student began as
            layers of the teacher; 'mean' averages the heads of each side first, so their numbers
            may differ.
        rows: Queries that are drawn, see :class:`AttentionKLLoss`; None takes all.
        student_key: Keys (N, h, K, d), where ``student`` holds queries.
        teacher_key: The same of the teacher.
        key_mask: Bool (N, K), True where a key may be looked at; with keys only.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a key without its query, an unknown option.
        TypeError: a mask that is not bool.

    Examples:
        >>> teacher = torch.tensor([[[[0.5, 0.5], [1., 0.]]]])
        >>> student = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]])
        >>> attention_kl(student, teacher)  # (ln(2)/2 + ln(2/3)/2 + ln 2) / 2
        tensor(0.4185)
    """
    check_choice('heads', heads, HEADS)
    _check_keys(student_key, teacher_key, key_mask)
    _check(student, teacher, heads, student_key, teacher_key)
    _check_mask('mask', mask, (len(student), student.shape[2]), 'queries')
    places = () if student_key is None else (len(student_key), student_key.shape[2])
    _check_mask('key_mask', key_mask, places, 'keys')
    queries = student.shape[2]
    with no_autocast(student):
        student, teacher = widen(student, teacher.detach())
        valid = len(student) * queries if mask is None else mask.sum().clamp(min=1)
        if rows is not None and rows < queries:
            drawn = torch.randperm(queries, device=student.device)[:rows]
            student, teacher = student[:, :, drawn], teacher[:, :, drawn]
            mask = None if mask is None else mask[:, drawn]
        # What stands in padding may be NaN, and 0 · NaN is NaN.
        rows_mask = None if mask is None else mask[..., None]
        student, teacher = (fill_masked(x, rows_mask) for x in (student, teacher))
        if student_key is None or teacher_key is None:
            log_student = _log_rows(student, heads)
        else:
            s_key, t_key = (
                _fill_keys(x, key_mask) for x in widen(student_key, teacher_key.detach())
            )
            log_student = log_attention_rows(student, s_key, key_mask)
            if heads == 'mean':
                log_student = log_student.logsumexp(1, keepdim=True) - math.log(student.shape[1])
            teacher = attention_rows(teacher, t_key, key_mask)
        if heads == 'mean':
            teacher = teacher.mean(1, keepdim=True)
        divergence = fill_masked(divergence_terms(teacher, log_student), rows_mask)
        if key_mask is not None:  # where no key counts a softmax is no distribution over keys
            divergence = fill_masked(divergence, key_mask[:, None])
        return queries / student.shape[2] * divergence.sum() / divergence.shape[1] / valid


@MODELS.register_module()
class AttentionKLLoss(Loss):
    r"""Divergence of attention rows; see :func:`attention_kl`.

    Where a fused kernel hides the probabilities, or (N, h, Q, K) numbers would not fit, the loss
    takes queries and keys and makes the rows itself: ``student`` and ``teacher`` are then queries
    (N, h, Q, d), ``student_key`` and ``teacher_key`` keys (N, h, K, d), as the taps
    ``….attn:query`` and ``….attn:key`` of an ``nn.MultiheadAttention`` give them, and :math:`A =
    \mathrm{softmax}(q k^\top / \sqrt d)`.

    ``rows`` bounds memory: so many queries are drawn in each call, the same ones for student,
    teacher and all images, without replacement, and their sum is scaled by Q/rows. Its expectation
    is the loss over all rows, under a mask too. With queries and keys no larger matrix than (N, h,
    rows, K) exists.

    Args:
        heads: 'match' or 'mean'.
        rows: Queries that are drawn in each call; None takes all.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Raises:
        ValueError: shapes that do not fit, a key without its query; probabilities whose rows do not
            sum to 1.

    Examples:
        >>> q, k = torch.zeros(1, 2, 4, 8), torch.randn(1, 2, 4, 8)  # which look at all keys alike
        >>> AttentionKLLoss()(q, q, student_key=k, teacher_key=-k)
        tensor(0.)
    """

    # Rows over other tokens cannot be resized to each other.
    roles = dict(
        student=Map(alike=()),
        teacher=Map(alike=()),
        student_key=Map(alike=()),
        teacher_key=Map(alike=()),
        mask=OfBatch(),
        key_mask=OfBatch(),
    )

    def __init__(
        self,
        heads: str = 'match',
        rows: int | None = None,
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        check_choice('heads', heads, HEADS)
        if rows is not None:
            check_count('rows', rows, 1)
        self.heads, self.rows = heads, rows

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        student_key: Tensor | None = None,
        teacher_key: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> str:
        """Refuse what is no attention: logits, scores, or probabilities after dropout.

        Raises:
            ValueError: A row does not sum to 1.
        """
        for name, x in (('student', student), ('teacher', teacher)) if student_key is None else ():
            sums = x.float().sum(-1)
            if not (x.ge(0).all() and (sums - 1).abs().max() < 0.02):
                raise ValueError(
                    f'{name} {shape_of(x)} is no attention: its rows sum to '
                    f'{float(sums.min()):.3g} … {float(sums.max()):.3g}, not to 1. Mend: tap '
                    'probabilities after softmax and before dropout, or queries and keys with '
                    'reads=dict(student_key=…, teacher_key=…)'
                )
        return ''

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        student_key: Tensor | None = None,
        teacher_key: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted loss; the arguments are those of :func:`attention_kl`."""
        return self.loss_weight * attention_kl(
            student, teacher, mask, self.heads, self.rows, student_key, teacher_key, key_mask
        )


def attention_rows(query: Tensor, key: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """Return softmax(q·kᵀ/√d), (N, h, Q, K), of queries (N, h, Q, d) and keys (N, h, K, d).

    >>> attention_rows(torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 2, 2))
    tensor([[[[0.5000, 0.5000]]]])
    """
    return _scores(query, key, key_mask).softmax(-1)


def log_attention_rows(query: Tensor, key: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """Return the logarithm of :func:`attention_rows`, without loss where a row is confident."""
    return _scores(query, key, key_mask).log_softmax(-1)


def _log_rows(probabilities: Tensor, heads: str) -> Tensor:
    if heads == 'mean':
        probabilities = probabilities.mean(1, keepdim=True)
    tiny = torch.finfo(probabilities.dtype).tiny
    return infinite_to_nan(probabilities).clamp(min=tiny).log()


def _fill_keys(key: Tensor, key_mask: Tensor | None) -> Tensor:
    return fill_masked(key, None if key_mask is None else key_mask[..., None])


def _scores(query: Tensor, key: Tensor, key_mask: Tensor | None) -> Tensor:
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if key_mask is None:
        return scores
    # No −∞: 0 · ∞ is NaN.
    return scores.masked_fill(~key_mask[:, None, None], torch.finfo(scores.dtype).min / 2)


def _shape(x: Tensor | None) -> str:
    return 'None' if x is None else shape_of(x)


def _check_keys(
    student_key: Tensor | None, teacher_key: Tensor | None, key_mask: Tensor | None
) -> None:
    keys = [key for key in (student_key, teacher_key) if key is not None]
    if len(keys) == 1 or (key_mask is not None and not keys):
        raise ValueError(
            'student_key and teacher_key come together, and key_mask with them; got student_key '
            f'{_shape(student_key)}, teacher_key {_shape(teacher_key)}, key_mask '
            f'{_shape(key_mask)}. Mend: all of them, or probabilities alone'
        )


def _check(
    student: Tensor,
    teacher: Tensor,
    heads: str,
    student_key: Tensor | None = None,
    teacher_key: Tensor | None = None,
) -> None:
    what = 'attention' if student_key is None else 'queries'
    shapes = f'student {shape_of(student)}, teacher {shape_of(teacher)}'
    if student.dim() != 4 or teacher.dim() != 4:
        mend = '; a module that averages its heads gives (N, Q, K): x[:, None]'
        raise ValueError(
            f'AttentionKLLoss needs {what} (N, heads, Q, K), got {shapes}'
            f'{mend if student.dim() == 3 else ""}'
        )
    _check_one_attention(student, student_key)
    _check_one_attention(teacher, teacher_key)
    if student.shape[1] != teacher.shape[1] and heads == 'match':
        raise ValueError(
            f'student has {student.shape[1]} heads but teacher has {teacher.shape[1]} ({shapes}); '
            "mend: heads='mean'"
        )
    mine, other = _tokens(student, student_key), _tokens(teacher, teacher_key)
    if len(student) != len(teacher) or mine != other:
        raise ValueError(
            f'student looks from {mine[0]} queries at {mine[1]} keys, teacher from {other[0]} at '
            f'{other[1]} ({shapes}); mend: layers over the same tokens (the same patch size and '
            'spatial reduction), or rows of affinity between features of one size: '
            "connectors=dict(student=dict(type='AffinityRows', size=…), teacher=…)"
        )


def _check_one_attention(query: Tensor, key: Tensor | None) -> None:
    if key is None:
        return
    same = key.dim() == 4 and (*key.shape[:2], key.shape[3]) == (*query.shape[:2], query.shape[3])
    if not same:
        raise ValueError(
            'queries and keys are those of one attention, (N, heads, Q, d) and (N, heads, K, d); '
            f'got {shape_of(query)} and {shape_of(key)}. Mend: taps :query and :key of one module'
        )


def _tokens(x: Tensor, key: Tensor | None) -> tuple[int, int]:
    """Return how many queries look at how many keys."""
    return x.shape[2], x.shape[3] if key is None else key.shape[2]


def _check_mask(name: str, mask: Tensor | None, shape: tuple[int, ...], what: str) -> None:
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(
            f'{name} must be a bool tensor, True for {what} that count, got {mask.dtype}; mend: '
            f'{name}.bool()'
        )
    if mask.shape != shape:
        raise ValueError(f'{name} must have the shape {shape} of the {what}, got {shape_of(mask)}')
