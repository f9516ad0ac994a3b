"""What is contrasted: how like every place is to a set of keys, on both sides."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.features.point_wise import check_features
from mmkd.losses.functional import (
    counted,
    fill_masked,
    first_derivative_only,
    no_autocast,
    unit_vectors,
    weighted_mean,
    widen,
)
from mmkd.utils.checks import check_choice, check_count, check_positive

# Entries of places × keys that are held at once.
_ENTRIES, _MANY_ENTRIES = {'cpu': 2**20}, 2**25


def memory_contrast(
    student: Tensor,
    teacher: Tensor,
    keys: Tensor,
    known: Tensor | None = None,
    tau: float = 0.1,
    compare: str = 'kl',
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    r"""Student and teacher against the same keys: alike, or each with its own.

    Papers: 'kl' is the memory of Yang et al., Cross-Image Relational Knowledge Distillation
    (CIRKD), CVPR 2022, arXiv 2204.06986, and self-supervised distillation over a queue; 'info-nce'
    and 'nce' tell the teacher's vector of the same place from the keys, 'nce' as Tian et al.,
    Contrastive Representation Distillation (CRD), ICLR 2020, arXiv 1910.10699.

    With cosines :math:`a^x_{ik} = \cos(x_i, m_k) / \tau`, :math:`a_i = \cos(s_i, t_i) / \tau`, and
    K known keys,

    .. math::
        \ell_i^{\mathrm{kl}} &= \mathrm{KL}\left(\mathrm{softmax}_k(a^t_{ik}) \,\Vert\,
                                \mathrm{softmax}_k(a^s_{ik})\right) \\
        \ell_i^{\mathrm{info\text{-}nce}} &= \ln\Big(e^{a_i} + \sum_k e^{a^s_{ik}}\Big) - a_i \\
        \ell_i^{\mathrm{nce}} &= -\ln \sigma(a_i - b) - \sum_k \ln \sigma(b - a^s_{ik}),
                                \quad b = \ln K + \frac{1}{2 C \tau^2}

    Normaliser: summed over keys, averaged over the valid places of the whole batch, with no factor
    τ², as both authors' codes. CRD's fixes :math:`e^b / K` as the mean of
    :math:`e^{a^s_{ik}}` over the first batch, of a memory of random vectors; its expectation,
    :math:`e^{1 / (2 C \tau^2)}` to 1 %, is taken here, so that no batch is special.

    Places × keys are never held: chunk by chunk the value and its gradient are taken together.
    Where no key is known all are exactly 0, with zero gradient.

    Args:
        student: Features (N, C, \*S).
        teacher: The same; receives no gradient.
        keys: m (K, C), of any length but 0; receive no gradient.
        known: Bool (K,): which of them are there; None: all.
        tau: Temperature.
        compare: 'kl', 'info-nce' or 'nce'.
        mask: Bool (N, \*S), True where a place counts.
        weight: Float (N, \*S), 0 or above: how much it counts.
        chunk: Places that are looked at together; None: as many as suit the keys.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, an option out of range.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> keys = torch.eye(2)
        >>> student, teacher = torch.tensor([[1., 0.]]), torch.tensor([[1., 1.]])
        >>> memory_contrast(student, teacher, keys, tau=1.)  # ln(e + 1) − 1/2 − ln 2
        tensor(0.1201)
        >>> memory_contrast(student, teacher, keys, tau=1., compare='info-nce')
        tensor(1.0415)
        >>> memory_contrast(2 * teacher, teacher, keys)
        tensor(0.)
    """
    check_features(student, teacher, 'contrast with a memory')
    check_mask(mask, student)
    check_weight(weight, student)
    check_contrast(tau, compare)
    if chunk is not None:
        check_count('chunk', chunk, 1)
    if keys.dim() != 2 or keys.shape[1] != student.shape[1] or not len(keys):
        raise ValueError(
            f'keys {shape_of(keys)} must be (K, C) of the C channels of teacher '
            f'{shape_of(teacher)}; mend: the tap that the memory was made for'
        )
    with no_autocast(student):
        counts = counted(mask, weight)
        student, teacher = (fill_masked(x, counts) for x in widen(student, teacher.detach()))
        keys = unit_vectors(keys.detach().to(student))
        if known is not None:
            keys = keys * known.unsqueeze(1)
        rows, others = (
            unit_vectors(x.movedim(1, -1).flatten(0, -2)) for x in (student, teacher.to(student))
        )
        entries = _ENTRIES.get(student.device.type, _MANY_ENTRIES)
        chunk = chunk or max(1, entries // len(keys))
        learning = torch.is_grad_enabled()
        each = _Contrast.apply(rows, others, keys, known, tau, compare, chunk, learning)
        return weighted_mean(each.view(len(student), *student.shape[2:]), mask, weight)


def check_contrast(tau: float, compare: str) -> None:
    """Refuse options out of range.

    Raises:
        ValueError: A temperature that is not above 0, another comparison.

    >>> check_contrast(0.1, 'kl')
    """
    check_positive('tau', tau)
    check_choice('compare', compare, COMPARISONS)


def _kl(s: Tensor, t: Tensor, keys: Tensor, hidden: Tensor | None, tau: float) -> tuple:
    log_s, log_t = (_hide(x @ keys.T / tau, hidden).log_softmax(1) for x in (s, t))
    p_t = log_t.exp()
    value = (p_t * (log_t - log_s)).sum(1)
    return value, (log_s.exp_().sub_(p_t) @ keys).div_(tau)


def _info_nce(s: Tensor, t: Tensor, keys: Tensor, hidden: Tensor | None, tau: float) -> tuple:
    own = (s * t).sum(1, keepdim=True)
    log_p = torch.cat([own, _hide(s @ keys.T, hidden)], 1).div_(tau).log_softmax(1)
    p = log_p.exp()
    return -log_p[:, 0], ((p[:, :1] - 1) * t).addmm_(p[:, 1:], keys).div_(tau)


def _nce(s: Tensor, t: Tensor, keys: Tensor, hidden: Tensor | None, tau: float) -> tuple:
    number = len(keys) if hidden is None else (~hidden).sum()
    # Of no key this is −inf, so that the own vector is certain.
    least = torch.as_tensor(number, dtype=s.dtype, device=s.device).log()
    least = least + 1 / (2 * s.shape[1] * tau**2)
    own = (s * t).sum(1, keepdim=True) / tau - least
    others = _hide(s @ keys.T / tau - least, hidden)
    value = F.softplus(-own[:, 0]) + F.softplus(others).sum(1)
    return value, (-(-own).sigmoid() * t).addmm_(others.sigmoid_(), keys).div_(tau)


# Each returns the value of every place and its gradient with respect to s.
COMPARISONS: dict[str, Callable[..., tuple]] = {'kl': _kl, 'info-nce': _info_nce, 'nce': _nce}


def _hide(scores: Tensor, hidden: Tensor | None) -> Tensor:
    """Give keys that are not there the least score; −inf would make NaN of −inf · 0."""
    least = torch.finfo(scores.dtype).min / 8
    return scores if hidden is None else scores.masked_fill_(hidden, least)


class _Contrast(torch.autograd.Function):
    """The value of every place; the forward forms the gradient and keeps only that."""

    @staticmethod
    def forward(
        ctx: Any,
        s: Tensor,
        t: Tensor,
        keys: Tensor,
        known: Tensor | None,
        tau: float,
        compare: str,
        chunk: int,
        learning: bool,
    ) -> Tensor:
        hidden = None if known is None else ~known
        if hidden is not None and compare == 'kl':
            hidden = hidden & ~hidden.all()  # keys that are not there are 0, and alike
        wanted = learning and ctx.needs_input_grad[0]  # which forgets no_grad
        slopes, values = torch.empty_like(s) if wanted else None, s.new_empty(len(s))
        for start in range(0, len(s), chunk):
            part = slice(start, start + chunk)
            values[part], slope = COMPARISONS[compare](s[part], t[part], keys, hidden, tau)
            if slopes is not None:
                slopes[part] = slope
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    @first_derivative_only('memory_contrast', 'its formula, written with F.kl_div or F.softplus')
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return grad.unsqueeze(1) * slopes, *[None] * 7
