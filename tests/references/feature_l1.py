"""Feature L1, one number at a time."""

from torch import Tensor


def feature_l1(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> float:
    """Return the mean over valid positions and channels of |s − t|."""
    n, c = student.shape[:2]
    s, t = (x.reshape(n, c, -1).tolist() for x in (student, teacher))
    found = [
        abs(s[i][k][p] - t[i][k][p])
        for i in range(n)
        for p in range(len(s[0][0]))
        for k in range(c)
        if mask is None or mask.reshape(n, -1)[i, p]
    ]
    return sum(found) / max(len(found), 1)
