"""Squared differences under masks of tokens, one number at a time."""

import math

from torch import Tensor


def log_sigmoid(x: float) -> float:
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))


def masked_token(
    student: Tensor,
    teacher: Tensor,
    tokens: Tensor,
    power: int = 1,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the mean over images, tokens and channels of Σ w^power (s − t)² / Σ w, halved."""
    n, c = student.shape[:2]
    s, t = (x.reshape(n, c, -1).tolist() for x in (student, teacher))
    flat = None if mask is None else mask.reshape(n, -1).tolist()
    values = []
    for k in range(n):
        places = [i for i in range(len(s[0][0])) if flat is None or flat[k][i]]
        if not places:
            continue
        for token in tokens.tolist():
            logs = [log_sigmoid(sum(token[d] * t[k][d][i] for d in range(c))) for i in places]
            own = [1.0 if weight is None else weight.reshape(n, -1)[k, i].item() for i in places]
            # of a token that looks nowhere, both sums times e^-top
            top = max(logs)
            below = sum(o * math.exp(log - top) for o, log in zip(own, logs, strict=True))
            for j in range(c):
                above = 0.0
                for i, o, log in zip(places, own, logs, strict=True):
                    square = (s[k][j][i] - t[k][j][i]) ** 2
                    above += o * math.exp(power * log - top) * square
                values.append(above / below / 2)
    return sum(values) / len(values) if values else 0.0
