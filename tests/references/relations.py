"""Relations of F3, one inner product at a time, as their equations have them."""

import math
from collections.abc import Iterator
from itertools import product
from statistics import fmean

from torch import Tensor

Vector = list[float]


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def unit(a: Vector) -> Vector:
    size = math.sqrt(dot(a, a))
    return [x / size for x in a] if size else a


def cosine(a: Vector, b: Vector) -> float:
    return dot(unit(a), unit(b))


def huber(d: float) -> float:
    return d * d / 2 if abs(d) < 1 else abs(d) - 0.5


def numbers(x: Tensor, n: int) -> list[float]:
    return x[n].reshape(-1).tolist()


def kept(x: Tensor, mask: Tensor | None, n: int) -> list[int]:
    """Return the positions of an image that count."""
    places = range(x[n, 0].numel())
    return [i for i in places if mask is None or numbers(mask, n)[i]]


def channels(x: Tensor, mask: Tensor | None, n: int, weight: Tensor | None = None) -> list[Vector]:
    """Return the channels of an image over what counts; a weight of 2 repeats a position."""
    flat = x[n].reshape(x.shape[1], -1).tolist()
    places = []
    for i in kept(x, mask, n):
        places += [i] * (1 if weight is None else round(numbers(weight, n)[i]))
    return [[row[i] for i in places] for row in flat]


# ------------------------------------------------------------------ between images


def images(
    x: Tensor, pooled: bool, mask: Tensor | None, weight: Tensor | None = None
) -> list[Vector]:
    """Return what each image is that has anything; 0 stands where one alone lacks a position."""
    found = []
    for n in range(len(x)):
        if not any(channels(x, mask, n, weight)):
            continue
        if pooled:
            found.append([fmean(c) for c in channels(x, mask, n, weight)])
            continue
        there = kept(x, mask, n)
        flat = x[n].reshape(x.shape[1], -1).tolist()
        root = [1.0] * len(flat[0]) if weight is None else [w**0.5 for w in numbers(weight, n)]
        vector: Vector = []
        for row in flat:
            vector += [v * root[i] if i in there else 0.0 for i, v in enumerate(row)]
        found.append(vector)
    return found


def sp(s: list[Vector], t: list[Vector]) -> float:
    rows = []
    for a, b in zip(s, t, strict=True):
        ours, theirs = unit([dot(a, x) for x in s]), unit([dot(b, x) for x in t])
        rows.append(sum((u - v) ** 2 for u, v in zip(ours, theirs, strict=True)))
    return fmean(rows)


def distances(x: list[Vector]) -> list[float]:
    found = [math.dist(a, b) for a, b in product(x, x)]
    positive = [d for d in found if d > 1e-9]
    return [d / fmean(positive) if positive else 0.0 for d in found]


def rkd_distance(s: list[Vector], t: list[Vector]) -> float:
    return fmean(huber(a - b) for a, b in zip(distances(s), distances(t), strict=True))


def angles(x: list[Vector]) -> Iterator[float]:
    for at, one, other in product(x, x, x):
        first = [a - b for a, b in zip(one, at, strict=True)]
        second = [a - b for a, b in zip(other, at, strict=True)]
        yield cosine(first, second)


def rkd_angle(s: list[Vector], t: list[Vector]) -> float:
    return fmean(huber(a - b) for a, b in zip(angles(s), angles(t), strict=True))


def pkt(s: list[Vector], t: list[Vector]) -> float:
    def rows(x: list[Vector]) -> list[Vector]:
        found = []
        for a in x:
            row = [(1 + cosine(a, b)) / 2 for b in x]
            row = [v / sum(row) + 1e-7 / len(x) for v in row]
            found.append([v / sum(row) for v in row])
        return found

    total = 0.0
    for p, q in zip(rows(t), rows(s), strict=True):
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(s)


def cc(s: list[Vector], t: list[Vector]) -> float:
    def kernel(a: Vector, b: Vector) -> float:
        c = 0.8 * cosine(a, b)
        return math.exp(-0.8) * (1 + c + c * c / 2)

    pairs = product(range(len(s)), repeat=2)
    return fmean((kernel(s[i], s[j]) - kernel(t[i], t[j])) ** 2 for i, j in pairs)


BETWEEN_IMAGES = {
    'sp': sp,
    'rkd-distance': rkd_distance,
    'rkd-angle': rkd_angle,
    'pkt': pkt,
    'cc': cc,
}


def batch_similarity(
    student: Tensor,
    teacher: Tensor,
    kind: str = 'sp',
    pooled: bool = False,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    sides = (images(x, pooled, mask, weight) for x in (student, teacher))
    return BETWEEN_IMAGES[kind](*sides)


# ------------------------------------------------------------------ between channels


def nst(s: list[Vector], t: list[Vector]) -> float:
    def mean(x: list[Vector], y: list[Vector]) -> float:
        return fmean(cosine(a, b) ** 2 for a, b in product(x, y))

    return mean(s, s) + mean(t, t) - 2 * mean(s, t)


def ickd(s: list[Vector], t: list[Vector]) -> float:
    return sp(s, t)  # of channels in place of images


def dsd(s: list[Vector], t: list[Vector], tau: float = 4.0) -> float:
    def overlaps(x: list[Vector]) -> list[float]:
        shares = []
        for row in x:
            powers = [math.exp(v / tau) for v in row]
            shares.append([p / sum(powers) for p in powers])
        return [len(x[0]) * dot(a, b) for a, b in product(shares, shares)]

    return fmean((a - b) ** 2 for a, b in zip(overlaps(s), overlaps(t), strict=True))


def pooled_map(x: Tensor, side: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the means of windows of (N, C, H, W) over what counts, and where there is any."""
    sizes = [math.ceil(n / side) for n in x.shape[2:]]
    out, some = x.new_zeros(*x.shape[:2], *sizes), x.new_zeros(len(x), *sizes).bool()
    for n, *node in product(range(len(x)), *map(range, sizes)):
        ends = zip(node, x.shape[2:], strict=True)
        spans = [range(k * side, min(m, k * side + side)) for k, m in ends]
        there = [p for p in product(*spans) if mask is None or mask[(n, *p)]]
        some[(n, *node)] = bool(there)
        for c in range(x.shape[1] if there else 0):
            out[(n, c, *node)] = fmean(x[(n, c, *p)].item() for p in there)
    return out, some


def channel_gram(
    student: Tensor,
    teacher: Tensor,
    kind: str = 'nst',
    tau: float = 4.0,
    pool: int = 2,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    if kind == 'dsd':
        (student, some), (teacher, _) = (pooled_map(x, pool, mask) for x in (student, teacher))
        mask = None if mask is None else some
    values = []
    for n in range(len(student)):
        s, t = (channels(x, mask, n, weight) for x in (student, teacher))
        if s[0]:
            function = dict(nst=nst, ickd=ickd, dsd=lambda a, b: dsd(a, b, tau))[kind]
            values.append(function(s, t))
    return fmean(values) if values else 0.0


def flow_of_solution(
    student: Tensor,
    teacher: Tensor,
    student_next: Tensor,
    teacher_next: Tensor,
    mask: Tensor | None = None,
) -> float:
    """Of layers of one size."""
    values = []
    for n in range(len(student)):
        a, b, c, d = (channels(x, mask, n) for x in (student, student_next, teacher, teacher_next))
        places = len(a[0])
        if not places:
            continue
        pairs = product(range(len(a)), range(len(b)))
        values.append(fmean(((dot(a[i], b[j]) - dot(c[i], d[j])) / places) ** 2 for i, j in pairs))
    return fmean(values) if values else 0.0


# ------------------------------------------------------------------ between pixels


def pixels(x: Tensor, mask: Tensor | None, n: int) -> list[Vector]:
    return [list(p) for p in zip(*channels(x, mask, n), strict=True)]


def softmax(row: Vector) -> Vector:
    powers = [math.exp(v) for v in row]
    return [p / sum(powers) for p in powers]


def row_wise_kl(
    student: Tensor,
    teacher: Tensor,
    tau: float = 0.1,
    across: str = 'batch',
    nodes: int | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> float:
    side = 1
    while nodes and math.prod(math.ceil(n / side) for n in student.shape[2:]) > nodes:
        side += 1
    if side > 1:
        (student, some), (teacher, _) = (pooled_map(x, side, mask) for x in (student, teacher))
        mask = None if mask is None else some
    s, t = ([pixels(x, mask, n) for n in range(len(x))] for x in (student, teacher))
    total = above = 0.0
    for i, j in product(range(len(s)), repeat=2):
        if not s[j] or (across == 'image' and i != j):
            continue
        places = kept(student, mask, i)
        for k, (a, b) in enumerate(zip(s[i], t[i], strict=True)):
            q = softmax([cosine(a, x) / tau for x in s[j]])
            p = softmax([cosine(b, x) / tau for x in t[j]])
            w = 1.0 if weight is None else numbers(weight, i)[places[k]]
            above += w * sum(u * math.log(u / v) for u, v in zip(p, q, strict=True))
            total += w
    return above / total if total else 0.0
