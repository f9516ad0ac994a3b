"""Row-wise KL: to which pixels a pixel is alike, as a distribution, within and across images."""

from typing import Any

import torch
from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import check_mask, check_weight, shape_of
from mmkd.losses.functional import (
    fill_masked,
    first_derivative_only,
    gather_over_ranks,
    no_autocast,
    number_of_ranks,
    sum_over_ranks,
    unit_vectors,
    widen,
)
from mmkd.losses.relations.inner_products import check_places, chunks_of
from mmkd.losses.relations.nodes import average_nodes, inside_windows, window_for, windows_of
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice, check_count, check_positive

ACROSS = ('batch', 'image')
METHODS = ('auto', 'dense', 'chunked')


def row_wise_kl(
    student: Tensor,
    teacher: Tensor,
    tau: float = 0.1,
    across: str = 'batch',
    nodes: int | None = 1024,
    window: int | None = None,
    shift: tuple[int, int] = (0, 0),
    gather: bool = True,
    method: str = 'auto',
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Divergence of the distributions that rows of the cosines between pixels make.

    Paper: Yang et al., Cross-Image Relational Knowledge Distillation (CIRKD), CVPR 2022, arXiv
    2204.06986, the mini-batch term. ``across='image'`` relates pixels of one image alone, as
    lightly does with τ = 0.07.

    .. math:: \frac{1}{|V| |J|} \sum_{(i, p) \in V} \sum_{j \in J}
              \mathrm{KL}(\sigma(A^t_{ip,j} / \tau) \Vert \sigma(A^s_{ip,j} / \tau)),
              \quad A_{ip,jq} = \frac{f_{ip}^\top f_{jq}}{\Vert f_{ip} \Vert \Vert f_{jq} \Vert}

    with σ the softmax over the pixels q of image j. Normaliser: averaged over the valid rows V,
    pixels p of images i, and over the images J that they are compared with, all of the batch or
    the row's own; no factor τ². A pixel that does not count is no row and no column. A weight
    counts in the mean over rows alone.

    Where a map has more than ``nodes`` places it is averaged over square windows first. The
    authors' code of 2022 has all 64×128 places of CNNs in two images and pools by 2 for SegFormers,
    that of 2025 by 4 where both sides are 256 or more. Under distributed training the columns are
    those of all devices (``gather``), so that many devices equal one process on the joined batch;
    their code leaves that out.

    Nodes × nodes are never held: chunk by chunk of rows the value and its gradients are taken
    together, so that memory is linear in the places and nothing is computed again in the backward.

    Args:
        student: Map (N, Cs, \*S) of one to three spatial axes.
        teacher: Map (N, Ct, \*S) of any channels; receives no gradient.
        tau: Temperature.
        across: Whether rows look at all images, 'batch', or at their own, 'image'.
        nodes: How many places of an image are related at most; None: all.
        window: Side of the windows of (N, C, H, W) within which pixels are related, in place of
            ``nodes``; with ``across='image'``. None: none.
        shift: How far their grid begins above and left of the map.
        gather: Whether the batch is that of all devices.
        method: 'dense' holds all scores, 'chunked' does not, 'auto' is dense where one chunk does.
        mask: Bool (N, \*S), True where a position counts.
        weight: Float (N, \*S), 0 or above: how much its row counts; receives no gradient.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, an option that is unknown or does not go with another.
        TypeError: a mask that is not bool, a weight that is no float.

    Examples:
        >>> teacher = torch.tensor([[[1., 0.], [0., 1.]]])  # rows (1, 0) and (0, 1)
        >>> row_wise_kl(torch.ones(1, 3, 2), teacher, tau=1.)  # rows (1, 1): ln 2 − H(e / (e + 1))
        tensor(0.1109)
    """
    _check_options(tau, across, nodes, window, method)
    check_places(student, teacher, 'row-wise KL')
    if student.dim() > 5 or (window is not None and student.dim() != 4):
        raise ValueError(
            f'row-wise KL relates maps of one to three spatial axes, by windows (N, C, H, W); got '
            f'student {shape_of(student)}, window={window}; mend: window=None, or x.flatten(2)'
        )
    check_mask(mask, student)
    check_weight(weight, student)
    with no_autocast(student):
        student, teacher = (fill_masked(x, mask) for x in widen(student, teacher.detach()))
        if window is None:
            side = window_for(tuple(student.shape[2:]), nodes)
            student, teacher, mask, weight = average_nodes(side, student, teacher, mask, weight)
        else:
            student, teacher, mask, weight = _cut(student, teacher, mask, weight, window, shift)
        s, t = (unit_vectors(x.flatten(2), 1) for x in (student, teacher))
        valid = None if mask is None else mask.flatten(1)
        own = None if weight is None else weight.flatten(1)
        return _mean_over_rows(s, t, valid, own, tau, across == 'batch', gather, method)


def _cut(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    window: int,
    shift: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return windows of maps, with the mask that a border makes."""
    _, _, mask, weight = average_nodes(1, student, teacher, mask, weight)
    inside = inside_windows(mask, student, window, shift)
    student, teacher = (windows_of(x, window, shift) for x in (student, teacher))
    if weight is not None:
        weight = windows_of(weight.unsqueeze(1), window, shift).squeeze(1)
    return student, teacher, inside, weight


def _mean_over_rows(
    s: Tensor,
    t: Tensor,
    valid: Tensor | None,
    weight: Tensor | None,
    tau: float,
    batch: bool,
    gather: bool,
    method: str,
) -> Tensor:
    """Return the mean divergence of unit vectors (N, C, P) under what counts (N, P)."""
    gather = gather and batch
    counts = s.new_ones(s[:, 0].shape) if valid is None else valid.to(s.dtype)
    rows, columns = counts if weight is None else weight, (s, t)
    images = None if valid is None else counts.amax(1)
    if gather:
        columns = (gather_over_ranks(s), gather_over_ranks(t))
        images = None if images is None else gather_over_ranks(images)
        counts = counts if valid is None else gather_over_ranks(counts)
    total = rows.sum()
    if gather:
        total = sum_over_ranks(total) / number_of_ranks()
    if batch:
        total = total * (len(columns[0]) if images is None else images.sum())
    rows = rows / total.where(total > 0, total.new_ones(()))
    if batch:  # one row of groups: each image's pixels are a softmax of their own
        groups, kept = len(columns[0]), None if valid is None else counts.reshape(1, 1, -1) > 0
        s, t = _joined(s), _joined(t)
        columns = (_joined(columns[0]), _joined(columns[1]))
        rows = rows.reshape(1, -1)
    else:
        groups, kept = 1, None if valid is None else valid.unsqueeze(1)
    sides = (s, columns[0], t, columns[1])
    chunks = chunks_of(s, s.shape[2], len(s) * columns[0].shape[2], least=16)
    if method == 'dense' or (method == 'auto' and len(chunks) == 1):
        log_s, log_t = (_log_rows(a, b, kept, groups, tau) for a, b in (sides[:2], sides[2:]))
        p_t = log_t.exp()
        # p_s − p_t sums to 0, and takes away what rounded logarithms add to a small value
        terms = log_s.exp() - p_t + p_t * (log_t - log_s)
        return (terms.sum((2, 3)) * rows).sum()
    return _RowKL.apply(*sides, rows, kept, groups, tau, chunks, torch.is_grad_enabled())


def _joined(x: Tensor) -> Tensor:
    """Return the pixels of all images beside each other, (1, C, N · P)."""
    return x.transpose(0, 1).flatten(1)[None]


def _log_rows(
    rows: Tensor, columns: Tensor, kept: Tensor | None, groups: int, tau: float
) -> Tensor:
    """Return the log-softmax (B, Q, groups, P) of products of (B, C, Q) and (B, C, groups · P)."""
    scores = rows.mT @ columns / tau
    if kept is not None:  # no −∞: less −∞ it is NaN
        scores = scores.masked_fill(~kept, torch.finfo(scores.dtype).min / 2)
    return scores.unflatten(2, (groups, -1)).log_softmax(3)


class _RowKL(torch.autograd.Function):
    """Sum over rows of share times KL; the forward forms the gradients and keeps only them."""

    @staticmethod
    def forward(
        ctx: Any,
        s: Tensor,
        columns_s: Tensor,
        t: Tensor,
        columns_t: Tensor,
        rows: Tensor,
        kept: Tensor | None,
        groups: int,
        tau: float,
        chunks: list[slice],
        learning: bool,
    ) -> Tensor:
        learning = learning and ctx.needs_input_grad[0]  # which forgets no_grad
        grad_s = torch.empty_like(s) if learning else None
        grad_columns = torch.zeros_like(columns_s) if learning else None
        value = s.new_zeros((), dtype=torch.float64)
        for part in chunks:
            share = rows[:, part, None, None]
            log_s = _log_rows(s[..., part], columns_s, kept, groups, tau)
            log_t = _log_rows(t[..., part], columns_t, kept, groups, tau)
            p_t = log_t.exp()
            gap = log_t.sub_(log_s)
            error = log_s.exp_().sub_(p_t)  # the gradient of the scores
            value += (torch.addcmul(error, p_t, gap).sum((2, 3), keepdim=True) * share).sum()
            if grad_s is not None and grad_columns is not None:
                error = error.mul_(share / tau).flatten(2)
                grad_s[..., part] = columns_s @ error.mT
                grad_columns.baddbmm_(s[..., part], error)
        ctx.save_for_backward(grad_s, grad_columns)
        return value.to(s.dtype)

    @staticmethod
    @first_derivative_only("RowWiseKLLoss(method='chunked')", "method='dense'")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if x is None else grad * x for x in ctx.saved_tensors), *[None] * 8


def _check_options(
    tau: float, across: str, nodes: int | None, window: int | None, method: str
) -> None:
    check_positive('tau', tau)
    check_choice('across', across, ACROSS)
    check_choice('method', method, METHODS)
    if nodes is not None:
        check_count('nodes', nodes, 2)
    if window is not None:
        check_count('window', window, 2)
        if across != 'image':
            raise ValueError(
                f'window={window} relates pixels of one image, which across={across!r} does not; '
                "mend: across='image', or window=None"
            )


@MODELS.register_module()
class RowWiseKLLoss(Loss):
    """Divergence of rows of cosines (CIRKD's mini-batch term); see :func:`row_wise_kl`.

    With one image in the batch it relates the pixels of that image. While training, a grid of
    windows begins at a random place in each call.

    Args:
        tau: Temperature.
        across: 'batch' or 'image'.
        nodes: How many places of an image are related at most; None: all.
        window: Side of windows within which pixels are related, with ``across='image'``; None.
        gather: Whether the batch is that of all devices.
        method: 'auto', 'dense' or 'chunked'.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> teacher = torch.tensor([[[1., 0.], [0., 1.]]])
        >>> RowWiseKLLoss(tau=1., loss_weight=10.)(torch.ones(1, 3, 2), teacher)
        tensor(1.1094)
    """

    roles = dict(student=Map(alike=('size',)), teacher=Map(alike=('size',)))

    def __init__(
        self,
        tau: float = 0.1,
        across: str = 'batch',
        nodes: int | None = 1024,
        window: int | None = None,
        gather: bool = True,
        method: str = 'auto',
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        _check_options(tau, across, nodes, window, method)
        self.tau, self.across, self.nodes, self.window = tau, across, nodes, window
        self.gather, self.method = gather, method

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Return the weighted loss of maps (N, C, \*S) under mask and weight (N, \*S)."""
        shift = (0, 0)
        if self.window is not None and self.training:
            shift = tuple(torch.randint(self.window, (2,)).tolist())
        return self.loss_weight * row_wise_kl(
            student,
            teacher,
            self.tau,
            self.across,
            self.nodes,
            self.window,
            shift,
            self.gather,
            self.method,
            mask,
            weight,
        )
