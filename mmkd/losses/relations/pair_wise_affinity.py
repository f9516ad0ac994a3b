"""Pair-wise distillation: how alike any two places of a map are, for student as for teacher."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.base import Loss, Map
from mmkd.losses.checks import shape_of
from mmkd.losses.functional import first_derivative_only, infinite_to_nan, no_autocast, widen
from mmkd.losses.relations.inner_products import chunks_of
from mmkd.registry import MODELS
from mmkd.utils.checks import check_choice


def pair_wise_affinity(
    student: Tensor,
    teacher: Tensor,
    patch: int | tuple[int, int] = 1,
    pool: str = 'avg',
    neighbourhood: int | None = None,
    method: str = 'auto',
) -> Tensor:
    r"""Mean squared difference between the cosine affinities of student and teacher.

    Paper: Liu et al., Structured Knowledge Distillation for Dense Prediction, CVPR 2019 / TPAMI
    2020, arXiv 1903.04197, eq. 2 and 3 (TPAMI numbering of the graph with granularity beta and
    connection range alpha).

    .. math:: \ell_{pa} = \frac{1}{|E|} \sum_{(i,j) \in E} (a^s_{ij} - a^t_{ij})^2,
              \quad a_{ij} = \frac{f_i^\top f_j}{\lVert f_i \rVert \lVert f_j \rVert}

    Normaliser: averaged over the edges E that exist, of all images. The full graph has (nodes)²
    edges, the zero diagonal included. The preprint prints the prefactor W'H'·alpha/beta, the
    *number* of edges; meant is its inverse.

    The authors' code differs: it max-pools with a window of half the map (``pool='max'``,
    ``patch=32`` on 65×65 leaves 3×3 nodes), has no connection range, and detaches the norm, which
    drops the projection from the gradient. The default follows the paper: average pooling, all
    nodes connected, the whole gradient.

    Since cosines do not depend on the number of channels, student and teacher may differ in it.
    With unit vectors as rows of S and T, ``gram`` uses :math:`\sum_{ij}(a^s-a^t)^2 = \lVert S^\top
    S \rVert^2 - 2 \lVert S^\top T \rVert^2 + \lVert T^\top T \rVert^2`: products of channels ×
    channels, linear in pixels, float64.

    Args:
        student: Features (N, Cs, H, W).
        teacher: Features (N, Ct, H, W); receives no gradient.
        patch: Pixels that one node spans, int or (height, width): beta = height · width. Windows at
            the border that do not fill up hold fewer pixels and are averaged over those.
        pool: 'avg', or the authors' 'max'.
        neighbourhood: None connects all nodes; an odd k connects each with the k×k around it (alpha
            = k²), itself included.
        method: 'dense' materialises nodes × nodes, 'gram' does not, 'auto' takes the cheaper.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single node, an option that is unknown or does not go
            with another.

    Examples:
        >>> student = torch.tensor([[[[1., 0.]], [[0., 1.]]]])  # two nodes, their cosine is 0
        >>> pair_wise_affinity(student, torch.ones(1, 4, 1, 2))  # 1: two of four edges are off by 1
        tensor(0.5000)
    """
    size = _check_patch(patch)
    _check_options(pool, neighbourhood, method)
    _check_maps(student, teacher, size)
    with no_autocast(student):
        s, t = (_pool(x, size, pool) for x in widen(student, teacher.detach()))
        if neighbourhood is not None:
            return _local(s, t, neighbourhood)
        s, t = s.flatten(2), t.flatten(2)
        gram = _gram_is_cheaper(s, t) if method == 'auto' else method == 'gram'
        return _Gram.apply(s, t) if gram else _dense(s, t)


def _pool(x: Tensor, size: tuple[int, int], pool: str) -> Tensor:
    if size == (1, 1):
        return x
    if pool == 'max':  # beside a −Inf the others would win
        return F.max_pool2d(infinite_to_nan(x), size, size, ceil_mode=True)
    return F.avg_pool2d(x, size, size, ceil_mode=True, count_include_pad=False)


def _inverse_norm(x: Tensor) -> Tensor:
    """Return 1 / |x| over the channels in float64; 0 for a zero vector, as its gradient then is."""
    square = x.double().square().sum(1, keepdim=True)
    exists = square > 0
    return square.where(exists, square.new_ones(())).rsqrt().where(exists, square.new_zeros(()))


def _sides(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors, or their difference and half sum where both sides have as many channels.

    With those, a^s_ij - a^t_ij = a_i·b_j + b_i·a_j: nothing cancels where student and teacher are
    nearly equal.
    """
    return (s - t, (s + t) / 2) if s.shape[1] == t.shape[1] else (s, t)


def _dense(s: Tensor, t: Tensor) -> Tensor:
    a, b = (x.to(s.dtype) for x in _sides(s * _inverse_norm(s), t * _inverse_norm(t)))
    if s.shape[1] == t.shape[1]:
        half = a.mT @ b
        difference = half + half.mT
    else:
        difference = torch.baddbmm(b.mT @ b, a.mT, a, beta=-1)
    return difference.square().sum() / max(1, difference.numel())


def _local(s: Tensor, t: Tensor, k: int) -> Tensor:
    """Mean over the edges within k×k, of half of the offsets: an edge equals its reverse."""
    height, width = s.shape[2:]
    a, b = (x.to(s.dtype) for x in _sides(s * _inverse_norm(s), t * _inverse_norm(t)))
    reach_y, reach_x = min(k // 2, height - 1), min(k // 2, width - 1)
    total, edges = s.new_zeros((), dtype=torch.float64), 0
    for dy in range(reach_y + 1):
        for dx in range(-reach_x if dy else 0, reach_x + 1):
            here = (..., slice(height - dy), slice(max(0, -dx), width - max(0, dx)))
            there = (..., slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
            if s.shape[1] == t.shape[1]:
                difference = (a[here] * b[there]).sum(1) + (b[here] * a[there]).sum(1)
            else:
                difference = (a[here] * a[there]).sum(1) - (b[here] * b[there]).sum(1)
            times = 2 if dy or dx else 1  # a node's own edge: off where one side is a zero vector
            total = total + times * difference.square().sum(dtype=torch.float64)
            edges += times * difference.numel()
    return (total / max(1, edges)).to(s.dtype)


class _Gram(torch.autograd.Function):
    """Mean over all edges without the edges; the forward forms the gradient and keeps only it."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor) -> Tensor:
        images, cs, nodes = s.shape
        ct = t.shape[1]
        chunks = chunks_of(s, nodes, images * (cs + ct))
        norms = [(_inverse_norm(s[..., chunk]), _inverse_norm(t[..., chunk])) for chunk in chunks]
        aa, ab, bb = (
            s.new_zeros(images, *size, dtype=torch.float64)
            for size in ((cs, cs), (cs, ct), (ct, ct))
        )
        for chunk, (norm_s, norm_t) in zip(chunks, norms, strict=True):
            a, b = _sides(s[..., chunk] * norm_s, t[..., chunk] * norm_t)
            _add_upper(aa, a)
            ab.baddbmm_(a, b.mT)
            _add_upper(bb, b)
        aa, bb = (x.triu() + x.triu(1).mT for x in (aa, bb))
        if cs == ct:
            value = 2 * (aa * bb).sum() + 2 * (ab * ab.mT).sum()
            from_a, from_b = bb + ab / 2, ab.mT + aa / 2
        else:
            value = aa.square().sum() - 2 * ab.square().sum() + bb.square().sum()
            from_a, from_b = aa, -ab
        scale = 1 / max(1, images * nodes**2)
        if ctx.needs_input_grad[0]:
            gradient = torch.empty_like(s, memory_format=torch.contiguous_format)
            for chunk, (norm_s, norm_t) in zip(chunks, norms, strict=True):
                unit = s[..., chunk] * norm_s
                a, b = _sides(unit, t[..., chunk] * norm_t)
                g = torch.bmm(from_a, a).baddbmm_(from_b, b)
                # Only a turn of the vector changes a cosine.
                g -= unit * (unit * g).sum(1, keepdim=True)
                gradient[..., chunk] = g * norm_s * (4 * scale)
            ctx.save_for_backward(gradient)
        return (value * scale).clamp(min=0).to(s.dtype)

    @staticmethod
    @first_derivative_only(
        "PairWiseAffinityLoss(method='gram')", "method='dense' ('auto' takes 'gram' for large maps)"
    )
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None


def _add_upper(gram: Tensor, x: Tensor, rows: int = 128) -> None:
    """Add x xᵀ to the upper triangle and a little below it, which saves nearly half of the work."""
    for i in range(0, x.shape[1], rows):
        gram[:, i : i + rows, i:].baddbmm_(x[:, i : i + rows], x[:, i:].mT)


def _gram_is_cheaper(s: Tensor, t: Tensor) -> bool:
    """Compare multiplications: float64 counts twice, the N×N entries are also written and read."""
    cs, ct, nodes = s.shape[1], t.shape[1], s.shape[2]
    return nodes >= 256 and 2 * (cs * cs + cs * ct + ct * ct) <= nodes * (cs + ct + 64)


def _check_patch(patch: int | tuple[int, int]) -> tuple[int, int]:
    size = (patch, patch) if isinstance(patch, int) else patch
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(map(_is_length, size)):
        raise ValueError(
            f'patch must be an int of at least 1 or two of them (height, width), got {patch!r}'
        )
    return size[0], size[1]


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_options(pool: str, neighbourhood: int | None, method: str) -> None:
    check_choice('pool', pool, ('avg', 'max'))
    check_choice('method', method, ('auto', 'dense', 'gram'))
    if neighbourhood is None:
        return
    if not isinstance(neighbourhood, int) or neighbourhood < 3 or neighbourhood % 2 == 0:
        raise ValueError(
            'neighbourhood must be None (all nodes) or an odd number of at least 3 (with 1 each '
            f'node has only its own edge, which contributes nothing), got {neighbourhood!r}'
        )
    if method == 'gram':
        raise ValueError(
            f"method='gram' sums over all nodes and cannot serve neighbourhood={neighbourhood}; "
            "mend: method='auto', or neighbourhood=None"
        )


def _check_maps(student: Tensor, teacher: Tensor, size: tuple[int, int]) -> None:
    shapes = f'student {shape_of(student)}, teacher {shape_of(teacher)}'
    if student.dim() != 4 or teacher.dim() != 4:
        raise ValueError(f'pair-wise affinity needs feature maps (N, C, H, W), got {shapes}')
    if len(student) != len(teacher):
        raise ValueError(f'student and teacher hold different numbers of images: {shapes}')
    if student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            f'student and teacher maps differ in size: {shapes}; mend: '
            "connectors=dict(student='auto') resizes the student"
        )
    if student.shape[2] <= size[0] and student.shape[3] <= size[1]:
        raise ValueError(
            f'patch {size} leaves a single node of {shapes}: its only edge is its own, which '
            'contributes nothing; mend: a smaller patch or a larger map'
        )


@MODELS.register_module()
class PairWiseAffinityLoss(Loss):
    """Pair-wise distillation of Structured KD; see :func:`pair_wise_affinity`.

    Args:
        patch: Pixels that one node spans, int or (height, width).
        pool: 'avg', or the authors' 'max' (with a large patch).
        neighbourhood: None for all nodes, or an odd k for the k×k around each.
        method: 'auto', 'dense' or 'gram'.
        loss_weight: Factor inside the returned value.
        loss_name: Key in the logs.

    Examples:
        >>> student = torch.tensor([[[[1., 0.]], [[0., 1.]]]])
        >>> PairWiseAffinityLoss(loss_weight=10.)(student, torch.ones(1, 4, 1, 2))
        tensor(5.)
    """

    roles = dict(student=Map(alike=('size',)), teacher=Map(alike=('size',)))

    def __init__(
        self,
        patch: int | tuple[int, int] = 1,
        pool: str = 'avg',
        neighbourhood: int | None = None,
        method: str = 'auto',
        loss_weight: float = 1.0,
        loss_name: str | None = None,
    ) -> None:
        super().__init__(loss_weight, loss_name)
        self.patch = _check_patch(patch)
        _check_options(pool, neighbourhood, method)
        self.pool, self.neighbourhood, self.method = pool, neighbourhood, method

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the weighted loss of features (N, Cs, H, W) and (N, Ct, H, W)."""
        return self.loss_weight * pair_wise_affinity(
            student, teacher, self.patch, self.pool, self.neighbourhood, self.method
        )
