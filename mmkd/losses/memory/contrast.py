"""What is contrasted: how like every place is to a set of keys, on both sides."""

import math
from collections.abc import Callable
from functools import cache
from itertools import accumulate, count, takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.checks import check_labels, check_mask, check_weight, shape_of
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
_Of = tuple[Tensor, Tensor | None]


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
    labels: Tensor | None = None,
    key_labels: Tensor | None = None,
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
                                \quad b = \ln K + \ln \mathrm{E}\, e^{a_{ik}}

    Normaliser: summed over keys, averaged over the valid places of the whole batch, with no factor
    τ², as both authors' codes. CRD's fixes :math:`e^b / K` as the mean of
    :math:`e^{a^s_{ik}}` over the first batch, of a memory of random vectors; the expectation over
    random unit vectors, :func:`log_mean_of_random`, is taken here, so that no batch is special.

    With ``labels`` a place is not compared with the keys of its own label; K is then what is left.

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
        labels: Integers (N, \*S); below 0: no label, so that no key is left out.
        key_labels: Integers (K,), of the keys, likewise; given together with ``labels``.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, an option out of range, labels of one side alone.
        TypeError: a mask that is not bool, a weight that is no float, labels that are no integers.

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
    _check_labels(labels, key_labels, student, keys)
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
        tags = None if labels is None else labels.flatten()
        each = _Contrast.apply(
            rows, others, keys, known, tau, compare, chunk, learning, tags, key_labels
        )
        return weighted_mean(each.view(len(student), *student.shape[2:]), mask, weight)


def check_contrast(tau: float, compare: str) -> None:
    """Refuse options out of range.

    Raises:
        ValueError: A temperature that is not above 0, another comparison.

    >>> check_contrast(0.1, 'kl')
    """
    check_positive('tau', tau)
    check_choice('compare', compare, COMPARISONS)


def _check_labels(
    labels: Tensor | None, key_labels: Tensor | None, student: Tensor, keys: Tensor
) -> None:
    if (labels is None) != (key_labels is None):
        raise ValueError(
            'labels and key_labels leave out keys together, and one of them is None; mend: both, '
            'or neither'
        )
    if labels is not None and key_labels is not None:
        check_labels(labels, student, 'contrast with a memory')
        if key_labels.shape != (len(keys),):
            raise ValueError(
                f'key_labels must be ({len(keys)},), one for each key, got {shape_of(key_labels)}; '
                'mend: the labels that were remembered with the keys'
            )


@cache
def log_mean_of_random(channels: int, tau: float) -> float:
    r"""Return the logarithm of the mean of :math:`e^{\cos / \tau}` over random unit vectors.

    .. math:: \ln \mathrm{E}\, e^{\cos / \tau} = \ln {}_0F_1\left(\tfrac{C}{2};
              \tfrac{1}{4 \tau^2}\right) = \ln \sum_k \frac{(4 \tau^2)^{-k}}
              {k!\, (C/2) (C/2 + 1) \cdots (C/2 + k - 1)}

    For many channels it is near :math:`1 / (2 C \tau^2)`, of a Gaussian cosine.

    Args:
        channels: C, of the vectors.
        tau: τ, above 0.

    >>> round(log_mean_of_random(1, 1.0), 6)  # ln cosh 1
    0.433781
    >>> round(log_mean_of_random(128, 0.07), 4)  # 0.7972 of a Gaussian
    0.7924
    """
    half, kappa = channels / 2, 1 / tau
    scale = kappa**2 / 4
    # from the largest term on: the first ones may be too small for a number
    most = int(kappa**2 / (half + math.hypot(half, kappa)) / 2)
    log_most = 2 * most * math.log(kappa / 2) + math.lgamma(half)
    log_most -= math.lgamma(most + 1) + math.lgamma(half + most)
    after = (scale / (k * (half + k - 1)) for k in count(most + 1))
    before = (k * (half + k - 1) / scale for k in range(most, 0, -1))
    terms = (takewhile(lambda x: x > 1e-18, accumulate(one, _times)) for one in (after, before))
    return log_most + math.log1p(sum(map(math.fsum, terms)))


def _times(x: float, y: float) -> float:
    return x * y


def _kl(s: Tensor, t: Tensor, keys: Tensor, hidden: Tensor | None, tau: float, wanted: bool) -> _Of:
    log_s, log_t = (_hide(x @ keys.T / tau, hidden).log_softmax(1) for x in (s, t))
    p_t = log_t.exp()
    value = (p_t * (log_t - log_s)).sum(1)
    return value, (log_s.exp_().sub_(p_t) @ keys).div_(tau) if wanted else None


def _info_nce(
    s: Tensor, t: Tensor, keys: Tensor, hidden: Tensor | None, tau: float, wanted: bool
) -> _Of:
    own = (s * t).sum(1, keepdim=True)
    log_p = torch.cat([own, _hide(s @ keys.T, hidden)], 1).div_(tau).log_softmax(1)
    if not wanted:
        return -log_p[:, 0], None
    p = log_p.exp()
    return -log_p[:, 0], ((p[:, :1] - 1) * t).addmm_(p[:, 1:], keys).div_(tau)


def _nce(
    s: Tensor, t: Tensor, keys: Tensor, hidden: Tensor | None, tau: float, wanted: bool
) -> _Of:
    # Of no key this is −inf, so that the own vector is certain.
    number = s.new_full((1,), len(keys)) if hidden is None else (~hidden).sum(-1, keepdim=True)
    least = number.to(s).log() + log_mean_of_random(s.shape[1], tau)
    own = (s * t).sum(1, keepdim=True) / tau - least
    others = _hide(s @ keys.T / tau - least, hidden)
    value = F.softplus(-own[:, 0]) + F.softplus(others).sum(1)
    if not wanted:
        return value, None
    return value, (-(-own).sigmoid() * t).addmm_(others.sigmoid_(), keys).div_(tau)


# Each returns the value of every place and, where it is wanted, its gradient with respect to s.
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
        tags: Tensor | None,
        key_tags: Tensor | None,
    ) -> Tensor:
        missing = None if known is None else ~known
        if missing is not None and compare == 'kl':
            missing = missing & ~missing.all()  # keys that are not there are 0, and alike
        wanted = learning and ctx.needs_input_grad[0]  # which forgets no_grad
        slopes, values = torch.empty_like(s) if wanted else None, s.new_empty(len(s))
        for start in range(0, len(s), chunk):
            part = slice(start, start + chunk)
            hidden = missing
            if tags is not None and key_tags is not None:
                hidden = _of_own_label(tags[part], key_tags, missing)
            values[part], slope = COMPARISONS[compare](s[part], t[part], keys, hidden, tau, wanted)
            if slopes is not None:
                slopes[part] = slope
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    @first_derivative_only('memory_contrast', 'its formula, written with F.kl_div or F.softplus')
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return grad.unsqueeze(1) * slopes, *[None] * 9


def _of_own_label(tags: Tensor, key_tags: Tensor, missing: Tensor | None) -> Tensor:
    """Return which keys (places, K) have a place's own label, or are missing.

    >>> _of_own_label(torch.tensor([3, -1]), torch.tensor([3, -1]), None).tolist()
    [[True, False], [False, False]]
    """
    tags = tags.unsqueeze(1)
    own = (tags == key_tags) & (tags >= 0)
    return own if missing is None else own | missing
