"""Features under attention, and the attentions' distance, one number at a time."""

import math

from torch import Tensor


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def attentions(x: list[list[float]], places: list[int], t: float) -> tuple[list, list]:
    """Return the attention of every valid place and of every channel of one image."""
    c, p = len(x), len(places)
    spatial = softmax([sum(abs(x[j][i]) for j in range(c)) / c / t for i in places])
    channel = softmax([sum(abs(x[j][i]) for i in places) / p / t for j in range(c)])
    return [p * a for a in spatial], [c * b for b in channel]


def focal_feature(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 0.5,
    spatial: float = 1.0,
    channel: float = 1.0,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the three terms; the weight is that of the first one alone."""
    n, c = student.shape[:2]
    s, t = (x.reshape(n, c, -1).tolist() for x in (student, teacher))
    flat = None if mask is None else mask.reshape(n, -1).tolist()
    above = below = 0.0
    over_places: list[float] = []
    over_channels: list[float] = []
    for k in range(n):
        places = [i for i in range(len(s[0][0])) if flat is None or flat[k][i]]
        if not places:
            continue
        (a_s, b_s), (a_t, b_t) = (attentions(x[k], places, temperature) for x in (s, t))
        own = [1.0 if weight is None else weight.reshape(n, -1)[k, i].item() for i in places]
        for i, w, theirs, ours in zip(places, own, a_t, a_s, strict=True):
            square = sum(b_t[j] * (s[k][j][i] - t[k][j][i]) ** 2 for j in range(c)) / c
            above += w * theirs * square
            below += w
            over_places.append(abs(ours - theirs))
        over_channels += [abs(b_s[j] - b_t[j]) for j in range(c)]
    return (
        (above / below if below else 0.0)
        + spatial * sum(over_places) / len(over_places)
        + channel * sum(over_channels) / len(over_channels)
    )
