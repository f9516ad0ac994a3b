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
    if how == 'image':
        squares: dict = {}
        for (n, _), vector in vectors.items():
            squares.setdefault(n, []).extend(v * v for v in vector)
        size = {n: math.sqrt(fmean(found)) for n, found in squares.items()}
        return {(n, i): [v / size[n] for v in vector] for (n, i), vector in vectors.items()}
    found: dict = {place: [] for place in places}
    for place in places:
        like = [other for other in places if how == 'batch' or other[0] == place[0]]
        for c in channels:
            among = [vectors[other][c] for other in like]
            deviation = pstdev(among)
            centred = vectors[place][c] - fmean(among)
            found[place].append(centred / deviation if deviation else 0.0)
    return found


def pool(x: Tensor, mask: Tensor | None, weight: Tensor | None) -> Tensor:
    """Return the weighted means (N, C) over the places of each image; NaN of one without any."""
    weights = None if weight is None else weight.reshape(len(x), -1).tolist()
    found = []
    for n, image in enumerate(values(x)):
        places = [i for m, i in kept(x, mask) if m == n]
        counts = {i: 1.0 if weights is None else weights[n][i] for i in places}
        total = sum(counts.values()) or math.nan
        found.append([sum(w * c[i] for i, w in counts.items()) / total for c in image])
    return x.new_tensor(found)


def penalty_of(s: list[float], t: list[float], penalty: str | dict[str, float]) -> float:
    if isinstance(penalty, dict):
        return sum(w * penalty_of(s, t, one) for one, w in penalty.items())
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
    penalty: str | dict[str, float] = 'l2',
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    pooled: bool = False,
) -> float:
    """Return the weighted mean over valid positions of the penalty of normalised vectors."""
    if pooled:
        student, teacher = (pool(x, mask, weight) for x in (student, teacher))
        mask, weight = student[:, 0].isfinite(), None
    places = kept(student, mask)
    s, t = (normalised(x, places, normalise) for x in (student, teacher))
    weights = None if weight is None else weight.reshape(len(student), -1).tolist()
    total = above = 0.0
    for n, i in places:
        w = 1.0 if weights is None else weights[n][i]
        above += w * penalty_of(s[n, i], t[n, i], penalty)
        total += w
    return above / total if total else 0.0
