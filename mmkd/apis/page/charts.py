"""Charts as SVG: lines and points that differ by dash and shape, not by colour alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from mmkd.apis.page.curves import Curve, mean_curve

WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 22, 12, 40
DASHES = ('', '8 4', '2 3', '10 3 2 3', '5 2', '12 5')
ROW = 54  # height of a row of points
STYLES = 6  # colours, dashes and shapes; then they begin anew


@dataclass(frozen=True)
class Line:
    """One row of a chart.

    Args:
        label: How it is called.
        runs: A curve each.
        style: Which colour, dash and shape it has.
    """

    label: str
    runs: list[Curve]
    style: int


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers within a range, at most so many.

    >>> ticks(0, 1500), ticks(0.21, 0.34)
    ([0, 500, 1000, 1500], [0.225, 0.25, 0.275, 0.3, 0.325])
    """
    span = high - low if high - low > 1e-300 else 1.0
    power = 10 ** math.floor(math.log10(span / most))
    step = next(
        size * power for size in (1, 2, 2.5, 5, 10, 20) if span / (size * power) < most - 0.5
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    places = max(10, 3 - math.floor(math.log10(step)))
    return [round(number * step, places) for number in range(first, last + 1)]


def number(value: float) -> str:
    """Return a number as an axis says it.

    >>> number(1500.0), number(0.25), number(2e6)
    ('1,500', '0.25', '2,000,000')
    """
    return f'{value:,.0f}' if float(value).is_integer() else f'{value:.6g}'


@dataclass(frozen=True)
class Scale:
    """A range of numbers on a range of pixels.

    >>> Scale(0, 10, 0, 100)(2.5)
    25.0
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where a value lies, to a tenth of a pixel."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 1)


def marker(style: int, x: float, y: float, size: float = 4.0) -> str:
    """Return the shape of a style at a place: circle, square, triangle, diamond, cross, ring."""
    r = size
    shapes = (
        f'M{x - r} {y}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z',
        f'M{x - r} {y - r}h{2 * r}v{2 * r}h{-2 * r}z',
        f'M{x} {y - 1.2 * r}l{1.2 * r} {2.1 * r}h{-2.4 * r}z',
        f'M{x} {y - 1.4 * r}l{1.4 * r} {1.4 * r}l{-1.4 * r} {1.4 * r}l{-1.4 * r} {-1.4 * r}z',
        f'M{x - r} {y - r}l{2 * r} {2 * r}M{x + r} {y - r}l{-2 * r} {2 * r}',
        f'M{x - r} {y}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z',
    )
    shape = style % STYLES
    return f'<path class="m s{shape}{" open" if shape > 3 else ""}" d="{shapes[shape]}"/>'


def swatch(style: int) -> str:
    """Return a short piece of a line with its shape, for a legend; it says nothing to readers."""
    return (
        '<svg class="swatch" viewBox="0 0 44 14" width="44" height="14" aria-hidden="true">'
        f'{_path([(2, 7), (42, 7)], style, "mean")}{marker(style, 22, 7)}</svg>'
    )


def _path(points: Iterable[tuple[float, float]], style: int, kind: str) -> str:
    d = 'L'.join(f'{x} {y}' for x, y in points)
    dash = DASHES[style % STYLES]
    dashed = f' stroke-dasharray="{dash}"' if dash else ''
    return f'<path class="{kind} s{style % STYLES}" d="M{d}"{dashed}/>'


def _axes(x: Scale, y: Scale, unit: str) -> str:
    parts = []
    for value in ticks(y.low, y.high):
        parts.append(
            f'<path class="grid" d="M{LEFT} {y(value)}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{number(value)}</text>'
        )
    for value in ticks(x.low, x.high):
        parts.append(
            f'<text x="{x(value)}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">'
            f'{number(value)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    return (
        f'{"".join(parts)}<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
        f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(unit)}</text>'
    )


def line_chart(name: str, lines: Sequence[Line], about: str, identifier: str) -> str:
    """Return a chart over iterations: seeds thin, their mean thick, with a shape at few points.

    Args:
        name: What is drawn.
        lines: The rows that have it.
        about: A sentence in place of the picture.
        identifier: Of this picture within its page.
    """
    points = [point for line in lines for run in line.runs for point in run]
    values = [value for _, value in points]
    margin = 0.05 * ((max(values) - min(values)) or abs(values[0]) or 1.0)
    x = Scale(0, max(step for step, _ in points) or 1, LEFT, WIDTH - RIGHT)
    y = Scale(min(values) - margin, max(values) + margin, HEIGHT - BOTTOM, TOP)
    drawn = [_axes(x, y, 'iteration')]
    for line in lines:
        if len(line.runs) > 1:
            drawn += [_path(_placed(run, x, y), line.style, 'seed') for run in line.runs]
    for line in lines:
        mean = _placed(mean_curve(line.runs), x, y)
        if mean:
            drawn.append(_path(mean, line.style, 'mean'))
            every = max(1, len(mean) // 6)
            drawn += [marker(line.style, *point) for point in mean[every - 1 :: every]]
    return svg(name, about, ''.join(drawn), HEIGHT, identifier)


def _placed(curve: Curve, x: Scale, y: Scale) -> list[tuple[float, float]]:
    return [(x(step), y(value)) for step, value in curve]


def strip_chart(
    name: str,
    rows: Sequence[tuple[str, list[float], int]],
    ends: tuple[float | None, float | None],
    about: str,
    identifier: str,
) -> str:
    """Return a line for each row with a point for each run, and a bar at their mean.

    Args:
        name: What is drawn.
        rows: Label, values and style of each.
        ends: Means of the student alone and of its teacher, between which the gap lies.
        about: A sentence in place of the picture.
        identifier: Of this picture within its page.
    """
    values = [value for _, own, _ in rows for value in own]
    margin = 0.08 * ((max(values) - min(values)) or abs(values[0]) or 1.0)
    x = Scale(min(values) - margin, max(values) + margin, LEFT, WIDTH - RIGHT)
    height = ROW * len(rows) + 56
    low = height - 34
    drawn = []
    alone, teacher = ends
    if alone is not None and teacher is not None:
        left, right = sorted((x(alone), x(teacher)))
        drawn.append(
            f'<rect class="gap" x="{left}" y="{TOP}" width="{round(right - left, 1)}" '
            f'height="{low - TOP}"/>'
        )
    for value in ticks(x.low, x.high):
        drawn.append(
            f'<path class="grid" d="M{x(value)} {TOP}V{low}"/>'
            f'<text x="{x(value)}" y="{low + 16}" text-anchor="middle">{number(value)}</text>'
        )
    for index, (label, own, style) in enumerate(rows):
        y = TOP + ROW * index + 36
        mean = x(sum(own) / len(own))
        drawn.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        drawn.append(f'<text class="label" x="{LEFT}" y="{y - 16}">{escape(label)}</text>')
        drawn += [marker(style, x(value), y) for value in own]
        drawn.append(f'<path class="tick s{style % STYLES}" d="M{mean} {y - 10}v20"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    drawn.append(f'<text x="{middle}" y="{height - 3}" text-anchor="middle">{escape(name)}</text>')
    return svg(name, about, ''.join(drawn), height, identifier)


def svg(name: str, about: str, drawn: str, height: float, identifier: str) -> str:
    """Return an SVG element with a title and a description for who does not see it."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-labelledby="{identifier}-t {identifier}-d">'
        f'<title id="{identifier}-t">{escape(name)}</title>'
        f'<desc id="{identifier}-d">{escape(about)}</desc>{drawn}</svg>'
    )
