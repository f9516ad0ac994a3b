"""Binary KL, class by class and place by place, from its equation."""

import math

from torch import Tensor


def binary_kl(
    student: Tensor, teacher: Tensor, tau: float = 1.0, mask: Tensor | None = None
) -> float:
    """Return τ² · mean over valid positions of Σ_c KL(Bernoulli p_c ‖ Bernoulli q_c)."""
    total, count = 0.0, 0
    s, t = (x.detach().movedim(1, -1).reshape(-1, x.shape[1]).tolist() for x in (student, teacher))
    for place, counts in enumerate([True] * len(s) if mask is None else mask.flatten().tolist()):
        if not counts:
            continue
        count += 1
        for a, b in zip(s[place], t[place], strict=True):
            q, p = (1 / (1 + math.exp(-z / tau)) for z in (a, b))
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return tau**2 * total / max(count, 1)
