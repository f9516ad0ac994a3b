"""A target mixed by reliability, place by place and class by class, from its equations."""

import math

from references.decoupled_kl import softmax
from torch import Tensor


def label_ce(z: float, yes: bool) -> float:
    """Return −ln σ(±z)."""
    z = z if yes else -z
    return math.log1p(math.exp(-z)) if z > -30 else -z


def at_places(
    x: Tensor, labels: Tensor, mask: Tensor | None
) -> list[list[tuple[list[float], int]]]:
    """Return logits and label of every place that counts, image by image."""
    flat = x.reshape(len(x), x.shape[1], -1).movedim(1, 2).tolist()
    own = labels.reshape(len(x), -1).tolist()
    counts = None if mask is None else mask.reshape(len(x), -1).tolist()
    found = []
    for n, image in enumerate(flat):
        places = []
        for i, z in enumerate(image):
            if (counts is None or counts[n][i]) and 0 <= own[n][i] < x.shape[1]:
                places.append((z, own[n][i]))
        found.append(places)
    return found


def mean_label_ce(x: Tensor, labels: Tensor, mask: Tensor | None) -> float:
    """Return the mean over places and classes of H."""
    each = [
        label_ce(v, c == y)
        for places in at_places(x, labels, mask)
        for z, y in places
        for c, v in enumerate(z)
    ]
    return sum(each) / max(len(each), 1)


def assess(s: float, t: float, yes: bool) -> tuple[float, float]:
    """Return h and g of a class at a place."""
    ours, theirs = label_ce(s, yes), label_ce(t, yes)
    a = ours / (ours + theirs)
    h = a * t + (1 - a) * s
    return h, ours + max(0.0, ours - label_ce(h, yes))


def bernoulli_kl(h: float, s: float) -> float:
    p, q = (1 / (1 + math.exp(-z)) for z in (h, s))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def reliability_mix(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    tau: float,
    over: str,
    mask: Tensor | None = None,
) -> float:
    """Return either kind."""
    ours, theirs = (at_places(x, labels, mask) for x in (student, teacher))
    classes = range(student.shape[1])
    if student.dim() == 2:  # the batch is one row of places
        ours, theirs = ([sum(x, [])] for x in (ours, theirs))
    images = []
    for own, other in zip(ours, theirs, strict=True):
        rows = []
        for (s, y), (t, _) in zip(own, other, strict=True):
            rows.append((s, [assess(s[c], t[c], c == y) for c in classes]))
        images.append(rows)
    if over == 'classes':
        return tau**2 * _over_classes([row for rows in images for row in rows], tau)
    alive = [rows for rows in images if rows]
    return tau**2 * sum(_over_places(rows, tau) for rows in alive) / max(len(alive), 1)


def _over_places(rows: list, tau: float) -> float:
    total, classes = 0.0, len(rows[0][0])
    for c in range(classes):
        weights = softmax([assessed[c][1] for _, assessed in rows])
        for w, (s, assessed) in zip(weights, rows, strict=True):
            total += w * bernoulli_kl(assessed[c][0] / tau, s[c] / tau)
    return total / classes


def _over_classes(rows: list, tau: float) -> float:
    total = 0.0
    for s, assessed in rows:
        w = softmax([g for _, g in assessed])
        p = softmax([h / tau for h, _ in assessed])
        q = softmax([z / tau for z in s])
        total -= sum(a * b * math.log(c) for a, b, c in zip(w, p, q, strict=True))
    return total / max(len(rows), 1)
