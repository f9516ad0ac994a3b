"""The alternative loss of activation boundaries, one number at a time."""

from torch import Tensor


def activation_boundary(
    student: Tensor,
    teacher: Tensor,
    margin: float = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the weighted mean over valid positions and channels, by the two cases of the paper."""
    n, c = student.shape[:2]
    s, t = (x.reshape(n, c, -1).tolist() for x in (student, teacher))
    flat = None if mask is None else mask.reshape(n, -1).tolist()
    above = total = 0.0
    for k in range(n):
        for i in range(len(s[0][0])):
            if flat is not None and not flat[k][i]:
                continue
            w = 1.0 if weight is None else weight.reshape(n, -1)[k, i].item()
            for j in range(c):
                if t[k][j][i] <= 0 and s[k][j][i] > -margin:
                    above += w * (s[k][j][i] + margin) ** 2 / c
                if t[k][j][i] > 0 and s[k][j][i] <= margin:
                    above += w * (s[k][j][i] - margin) ** 2 / c
            total += w
    return above / total if total else 0.0
