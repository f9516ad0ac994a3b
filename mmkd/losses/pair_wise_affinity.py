"""Pair-wise distillation: how alike any two places of a feature map are, for the student as for the teacher."""
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmkd.checks import check_choice
from mmkd.losses.base import Loss, no_autocast, shape_of, widen
from mmkd.registry import MODELS

# Elements of the float64 working copies of one chunk of nodes (16 MB on a CPU; a GPU needs longer kernels).
_CHUNK = {'cpu': 2**21, 'cuda': 2**26}


def pair_wise_affinity(student: Tensor, teacher: Tensor, patch: int | tuple[int, int] = 1, pool: str = 'avg',
                       neighbourhood: int | None = None, method: str = 'auto') -> Tensor:
    r"""Mean squared difference between the cosine affinities of student and teacher.

    Paper: Liu et al., Structured Knowledge Distillation for Dense Prediction, CVPR 2019 / TPAMI 2020,
    arXiv 1903.04197, eq. 2 and 3 (TPAMI numbering of the graph with granularity beta and connection range alpha).

    .. math:: \ell_{pa} = \frac{1}{|E|} \sum_{(i,j) \in E} (a^s_{ij} - a^t_{ij})^2,
              \quad a_{ij} = \frac{f_i^\top f_j}{\lVert f_i \rVert \lVert f_j \rVert}

    Normaliser: averaged over the edges E that exist, of all images. The full graph has (nodes)² edges, the zero
    diagonal included. The preprint prints the prefactor W'H'·alpha/beta, the *number* of edges; meant is its inverse.

    The authors' code differs: it max-pools with a window of half the map (``pool='max'``, ``patch=32`` on 65×65 leaves
    3×3 nodes), has no connection range, and detaches the norm, which drops the projection from the gradient.
    The default follows the paper: average pooling, all nodes connected, the whole gradient.

    Since cosines do not depend on the number of channels, student and teacher may differ in it. With unit vectors as
    rows of S and T, ``gram`` uses :math:`\sum_{ij}(a^s-a^t)^2 = \lVert S^\top S \rVert^2 - 2 \lVert S^\top T \rVert^2
    + \lVert T^\top T \rVert^2`: products of channels × channels, linear in pixels, float64.

    Args:
        student: Features (N, Cs, H, W).
        teacher: Features (N, Ct, H, W); receives no gradient.
        patch: Pixels that one node spans, int or (height, width): beta = height · width. Windows at the border that
            do not fill up hold fewer pixels and are averaged over those.
        pool: 'avg', or the authors' 'max'.
        neighbourhood: None connects all nodes; an odd k connects each with the k×k around it (alpha = k²), itself
            included.
        method: 'dense' materialises nodes × nodes, 'gram' does not, 'auto' takes the cheaper.

    Returns:
        0-d tensor, float32 or wider.

    Raises:
        ValueError: shapes that do not fit, a single node, an option that is unknown or does not go with another.

    Examples:
        >>> student = torch.tensor([[[[1., 0.]], [[0., 1.]]]])  # two nodes at a right angle: cosine 0
        >>> pair_wise_affinity(student, torch.ones(1, 5, 1, 2))  # cosine 1: two of four edges are off by 1
        tensor(0.5000)
    """
    size = _check_patch(patch)
    _check_options(pool, neighbourhood, method)
    _check_maps(student, teacher, size)
    with no_autocast(student):
        s, t = (_pool(x, size, pool) for x in widen(student, teacher.detach()))
        if neighbourhood is not None:
            return _local(*_factors(s, t), neighbourhood).to(s.dtype)
        if method == 'gram' or (method == 'auto' and _gram_is_cheaper(s, t)):
            return _Gram.apply(s, t)
        u, v = (x.flatten(2) for x in _factors(s, t))
        return (u.transpose(1, 2) @ v).square().mean()


def _pool(x: Tensor, size: tuple[int, int], pool: str) -> Tensor:
    if size == (1, 1):
        return x
    if pool == 'max':
        return F.max_pool2d(x, size, size, ceil_mode=True)
    return F.avg_pool2d(x, size, size, ceil_mode=True, count_include_pad=False)


def _inverse_norm(x: Tensor) -> Tensor:
    """1 / |x| over the channels in float64; 0 for a zero vector, so that its cosine and its gradient are 0."""
    square = x.double().square().sum(1, keepdim=True)
    exists = square > 0
    return torch.where(exists, square.where(exists, square.new_ones(())).rsqrt(), square.new_zeros(()))


def _unit(x: Tensor) -> Tensor:
    return x.double() * _inverse_norm(x)


def _factors(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return u, v with a^s_ij - a^t_ij = u_i · v_j, in the dtype of ``s``.

    With as many channels on both sides, half sum m and difference d avoid subtracting nearly equal affinities:
    s_i·s_j - t_i·t_j = d_i·m_j + m_i·d_j.
    """
    a, b = _unit(s), _unit(t)
    if a.shape[1] == b.shape[1]:
        d, m = a - b, (a + b) / 2
        return torch.cat([d, m], 1).to(s.dtype), torch.cat([m, d], 1).to(s.dtype)
    return torch.cat([a, -b], 1).to(s.dtype), torch.cat([a, b], 1).to(s.dtype)


def _local(u: Tensor, v: Tensor, k: int) -> Tensor:
    """Mean over the edges within k×k; an edge and its reverse are equal, and a node's own edge is always 0."""
    n, _, height, width = u.shape
    reach_y, reach_x = min(k // 2, height - 1), min(k // 2, width - 1)
    total, edges = u.new_zeros((), dtype=torch.float64), n * height * width
    for dy in range(reach_y + 1):
        for dx in range(-reach_x if dy else 1, reach_x + 1):
            here, there = slice(max(0, -dx), width - max(0, dx)), slice(max(0, dx), width - max(0, -dx))
            difference = (u[:, :, :height - dy, here] * v[:, :, dy:, there]).sum(1)
            total = total + 2 * difference.square().sum(dtype=torch.float64)
            edges += 2 * difference.numel()
    return total / max(edges, 1)


class _Gram(torch.autograd.Function):
    """Mean over all edges without the edges; the gradient is formed in the forward, so only it is kept."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor) -> Tensor:
        shape, s, t = s.shape, s.flatten(2), t.flatten(2)
        nodes, paired = s.shape[2], s.shape[1] == t.shape[1]
        scale = 1 / max(1, len(s) * nodes**2)
        step = max(256, _CHUNK.get(s.device.type, _CHUNK['cuda']) // max(1, len(s) * (s.shape[1] + t.shape[1])))
        chunks = [slice(start, start + step) for start in range(0, nodes, step)]
        aa, ab, bb = (s.new_zeros(len(s), rows, columns, dtype=torch.float64) for rows, columns in
                      ((s.shape[1], s.shape[1]), (s.shape[1], t.shape[1]), (t.shape[1], t.shape[1])))
        for chunk in chunks:
            a, b = _sides(s[..., chunk], t[..., chunk], paired)
            aa.baddbmm_(a, a.mT)
            ab.baddbmm_(a, b.mT)
            bb.baddbmm_(b, b.mT)
        if paired:  # a, b are difference and half sum: nothing cancels where student and teacher are nearly equal
            value = 2 * (aa * bb).sum() + 2 * (ab * ab.mT).sum()
            from_a, from_b = bb + ab / 2, ab.mT + aa / 2
        else:
            value = aa.square().sum() - 2 * ab.square().sum() + bb.square().sum()
            from_a, from_b = aa, -ab
        if ctx.needs_input_grad[0]:
            gradient = torch.empty_like(s, memory_format=torch.contiguous_format)
            for chunk in chunks:
                a, b = _sides(s[..., chunk], t[..., chunk], paired)
                unit, g = (b + a / 2 if paired else a), torch.bmm(from_a, a).baddbmm_(from_b, b)
                g -= unit * (unit * g).sum(1, keepdim=True)  # only a turn of the vector changes a cosine
                gradient[..., chunk] = g * _inverse_norm(s[..., chunk]) * (4 * scale)
            ctx.save_for_backward(gradient.view(shape))
        return (value * scale).clamp(min=0).to(s.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradient, = ctx.saved_tensors
        return gradient * grad, None


def _sides(s: Tensor, t: Tensor, paired: bool) -> tuple[Tensor, Tensor]:
    a, b = _unit(s), _unit(t)
    return (a - b, (a + b) / 2) if paired else (a, b)


def _gram_is_cheaper(s: Tensor, t: Tensor) -> bool:
    """Compare multiplications: one of float64 is counted as two, each of the N×N entries is also read and written."""
    cs, ct, nodes = s.shape[1], t.shape[1], s[0, 0].numel()
    return 2 * (cs * cs + cs * ct + ct * ct) <= nodes * (cs + ct + 64)


def _check_patch(patch: int | tuple[int, int]) -> tuple[int, int]:
    size = (patch, patch) if isinstance(patch, int) else tuple(patch)
    if len(size) != 2 or any(not isinstance(p, int) or isinstance(p, bool) or p < 1 for p in size):
        raise ValueError(f'patch must be an int of at least 1 or two of them (height, width), got {patch!r}')
    return size[0], size[1]


def _check_options(pool: str, neighbourhood: int | None, method: str) -> None:
    check_choice('pool', pool, ('avg', 'max'))
    check_choice('method', method, ('auto', 'dense', 'gram'))
    if neighbourhood is None:
        return
    if not isinstance(neighbourhood, int) or neighbourhood < 3 or neighbourhood % 2 == 0:
        raise ValueError(f'neighbourhood must be None (all nodes) or an odd number of at least 3 (with 1 each node has '
                         f'only its own edge, which contributes nothing), got {neighbourhood!r}')
    if method == 'gram':
        raise ValueError(f"method='gram' sums over all nodes and cannot serve neighbourhood={neighbourhood}; mend: "
                         "method='auto', or neighbourhood=None")


def _check_maps(student: Tensor, teacher: Tensor, size: tuple[int, int]) -> None:
    shapes = f'student {shape_of(student)}, teacher {shape_of(teacher)}'
    if student.dim() != 4 or teacher.dim() != 4:
        raise ValueError(f'pair-wise affinity needs feature maps (N, C, H, W), got {shapes}')
    if len(student) != len(teacher):
        raise ValueError(f'student and teacher hold different numbers of images: {shapes}')
    if student.shape[2:] != teacher.shape[2:]:
        raise ValueError(f"student and teacher maps differ in size: {shapes}; mend: connectors=dict(student='auto') "
                         'resizes the student')
    if student.shape[2] <= size[0] and student.shape[3] <= size[1]:
        raise ValueError(f'patch {size} leaves a single node of {shapes}: its only edge is its own, which contributes '
                         'nothing; mend: a smaller patch or a larger map')


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
        >>> PairWiseAffinityLoss(loss_weight=10.)(torch.tensor([[[[1., 0.]], [[0., 1.]]]]), torch.ones(1, 5, 1, 2))
        tensor(5.)
    """

    needs = ('size',)

    def __init__(self, patch: int | tuple[int, int] = 1, pool: str = 'avg', neighbourhood: int | None = None,
                 method: str = 'auto', loss_weight: float = 1.0, loss_name: str | None = None) -> None:
        super().__init__(loss_weight, loss_name)
        self.patch = _check_patch(patch)
        _check_options(pool, neighbourhood, method)
        self.pool, self.neighbourhood, self.method = pool, neighbourhood, method

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the weighted loss of features (N, Cs, H, W) and (N, Ct, H, W)."""
        return self.loss_weight * pair_wise_affinity(student, teacher, self.patch, self.pool, self.neighbourhood,
                                                     self.method)
