"""LD, edge by edge and bin by bin, from its equation."""

from references.decoupled_kl import kl, softmax
from torch import Tensor


def localization_kl(
    student: Tensor, teacher: Tensor, edges: int, tau: float, mask: Tensor | None = None
) -> float:
    """Return τ² · mean over valid places and edges of KL over the bins of an edge."""
    bins = student.shape[1] // edges
    s, t = (x.movedim(1, -1).reshape(-1, x.shape[1]).tolist() for x in (student, teacher))
    valid = [True] * len(s) if mask is None else mask.flatten().tolist()
    values = []
    for own, one, other in zip(valid, s, t, strict=True):
        for begin in range(0, edges * bins if own else 0, bins):
            p, q = (softmax([v / tau for v in z[begin : begin + bins]]) for z in (one, other))
            values.append(kl(q, p))
    return tau**2 * sum(values) / len(values)
