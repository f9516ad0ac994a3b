"""Feature matching, one number at a time."""

import math
from statistics import fmean, pstdev

from torch import Tensor

Values = list[list[list[float]]]  # of an image, a channel, a position


def values(x: Tensor) -> Values:
    return x.reshape(*x.shape[:2], -1).tolist()


def kept(x: Tensor, mask: Tensor | None) -> list[tuple[int, int]]:
    """Return image and position of all that counts."""
    flat = None if mask is None else mask.reshape(len(x), -1).tolist()
    places = range(x[0, 0].numel())
    return [(n, i) for n in range(len(x)) for i in places if flat is None or flat[n][i]]


def unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    return [v / length if length else 0.0 for v in vector]


def normalised(x: Tensor, places: list[tuple[int, int]], how: str | None) -> dict:
    """Return (image, position) -> the vector of its channels."""
    all_values, channels = values(x), range(x.shape[1])
    vectors = {(n, i): [all_values[n][c][i] for c in channels] for n, i in places}
    if how == 'l2':
        return {place: unit(vector) for place, vector in vectors.items()}
    if how is None:
        return vectors
    found: dict = {place: [] for place in places}
    for place in places:
        like = [other for other in places if how == 'batch' or other[0] == place[0]]
        for c in channels:
            among = [vectors[other][c] for other in like]
            deviation = pstdev(among)
            centred = vectors[place][c] - fmean(among)
            found[place].append(centred / deviation if deviation else 0.0)
    return found


def penalty_of(s: list[float], t: list[float], penalty: str) -> float:
    if penalty == 'cosine':
        return 1 - sum(a * b for a, b in zip(unit(s), unit(t), strict=True))
    found = []
    for a, b in zip(s, t, strict=True):
        d = abs(a - b)
        huber = d * d / 2 if d < 1 else d - 0.5
        found.append(dict(l2=d * d, l1=d, huber=huber)[penalty])
    return fmean(found)


def feature_matching(
    student: Tensor,
    teacher: Tensor,
    normalise: str | None = None,
    penalty: str = 'l2',
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    """Return the weighted mean over valid positions of the penalty of normalised vectors."""
    places = kept(student, mask)
    s, t = (normalised(x, places, normalise) for x in (student, teacher))
    weights = None if weight is None else weight.reshape(len(student), -1).tolist()
    total = above = 0.0
    for n, i in places:
        w = 1.0 if weights is None else weights[n][i]
        above += w * penalty_of(s[n, i], t[n, i], penalty)
        total += w
    return above / total if total else 0.0
