"""Partial L2 distance with margins, one number at a time."""

from torch import Tensor


def partial_l2(
    student: Tensor,
    teacher: Tensor,
    margin: float | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the weighted mean over valid positions and channels; None: the batch's margin."""
    n, c = student.shape[:2]
    s, t = (x.reshape(n, c, -1).tolist() for x in (student, teacher))
    flat = None if mask is None else mask.reshape(n, -1).tolist()
    places = [(k, i) for k in range(n) for i in range(len(s[0][0])) if flat is None or flat[k][i]]
    margins = []
    for j in range(c):
        negative = [t[k][j][i] for k, i in places if t[k][j][i] < 0]
        mean = sum(negative) / len(negative) if negative else 0.0
        margins.append(mean if margin is None else margin)
    above = total = 0.0
    for k, i in places:
        w = 1.0 if weight is None else weight.reshape(n, -1)[k, i].item()
        for j in range(c):
            target = max(t[k][j][i], margins[j])
            if s[k][j][i] > target or t[k][j][i] > 0:
                above += w * (s[k][j][i] - target) ** 2 / c
        total += w
    return above / total if total else 0.0
