"""Line charts and sparklines as inline SVG: pure functions from arrays to markup.

Colours and type come from the page's style sheet by class. Every point has a ``<title>``, so values
can be read by hovering without any script.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from ufm_jax.report import svg
from ufm_jax.report.axes import Scale, axes, padded_range, ticks
from ufm_jax.report.markup import Markup, decimal, element, join

_WIDE, _NARROW = 1040, 360
_MOST_POINTS, _MOST_CONTEXT_POINTS, _MOST_SPARK_POINTS = 300, 200, 48


@dataclasses.dataclass(frozen=True)
class LineChart:
    """A curve over the rounds, with optional context behind it. R rounds.

    Attributes:
        rounds: [R], increasing; integers are ticked at whole numbers only.
        values: float [R], the curve; nan leaves a gap.
        labels: R texts, shown when hovering a round.
        y_label: What the y axis shows, with its unit.
        description: The chart in words, for readers who cannot see it.
        lines: float [K, R], thin lines behind the curve, through the points that are not nan (a
            client may sit out most rounds); or None.
        band: float [2, R], lower and upper edge of a band behind the curve, or None.
        marked: Rounds to mark on the axis.
        from_zero: Whether the y axis begins at zero.
        x_label: What the x axis shows, if ``rounds`` holds something else that increases.
    """

    rounds: np.ndarray
    values: np.ndarray
    labels: Sequence[str]
    y_label: str
    description: str
    lines: np.ndarray | None = None
    band: np.ndarray | None = None
    marked: frozenset[int] = frozenset()
    from_zero: bool = False
    x_label: str = "round"


def responsive(draw: Callable[[int], Markup]) -> Markup:
    """Draws a chart for wide pages and again for phones, where scaled-down type is unreadable.

    Args:
        draw: From the width in pixels to the chart.
    """
    wide = element("div", draw(_WIDE), class_="wide")
    return join(wide, element("div", draw(_NARROW), class_="narrow"))


def responsive_line_chart(chart: LineChart, height: int) -> Markup:
    """Draws ``chart`` with ``height`` pixels on wide pages, and three quarters of it on phones."""
    low = max(240, round(0.75 * height))
    return responsive(lambda width: line_chart(chart, width, height if width == _WIDE else low))


def line_chart(chart: LineChart, width: int, height: int) -> Markup:
    """Draws ``chart`` on ``width`` x ``height`` pixels."""
    all_rounds, chart = chart.rounds, thinned(chart, _MOST_POINTS)
    first, last = float(chart.rounds[0]), float(chart.rounds[-1])
    if first == last:  # a single round still needs an axis of some length
        first, last = first - 1, last + 1
    x = Scale(first, last, 46, width - 12)
    low, high = padded_range(_range_values(chart), from_zero=chart.from_zero)
    y = Scale(low, high, height - 34, 24)
    curves = [] if chart.band is None else [_band(x, y, chart.rounds, chart.band)]
    if chart.lines is not None:
        for values in chart.lines:
            points = observed(all_rounds, values, _MOST_CONTEXT_POINTS)
            curves.append(polyline(x, y, *points, "context"))
    curves.append(polyline(x, y, chart.rounds, chart.values, "curve"))
    whole = np.issubdtype(all_rounds.dtype, np.integer)
    x_ticks = [
        value
        for value in ticks(x.low, x.high, max(5, width // 110), whole=whole)
        if chart.rounds[0] <= value <= chart.rounds[-1]
    ]
    return svg.chart(
        axes(x, y, chart.x_label, chart.y_label, x_ticks, height - 3),
        svg.window(*curves, left=x.start - 3, top=y.stop - 6, right=x.stop + 3, bottom=y.start + 2),
        *_marks(x, y, chart.marked),
        *_hover(x, y, chart),
        width=width,
        height=height,
        description=chart.description,
    )


def sparkline(rounds: np.ndarray, values: np.ndarray, y_range: tuple[float, float]) -> Markup:
    """A word-sized curve with a dot at its last finite value.

    Args:
        rounds: int [R], increasing.
        values: float [R]; nan leaves a gap.
        y_range: Common range of all sparklines of a table, so that they compare.
    """
    width, height = 110, 24
    x = Scale(rounds[0], max(rounds[-1], rounds[0] + 1), 4, width - 6)
    y = Scale(*y_range, height - 3, 3)
    xs, ys = observed(rounds, values, _MOST_SPARK_POINTS)
    children = [polyline(x, y, xs, ys, "spark")]
    if xs.size:
        children.append(element("circle", cx=x(xs[-1]), cy=y(ys[-1]), r=2.2, class_="dot"))
    return element(
        "svg",
        *children,
        viewBox=svg.view_box(0, 0, width, height),
        class_="sparkline",
        aria_hidden="true",
    )


def thinned(chart: LineChart, most: int) -> LineChart:
    """Keeps every k-th round and the last, about ``most``, of all but the thin lines."""
    kept = _every(len(chart.rounds), most)
    return dataclasses.replace(
        chart,
        rounds=chart.rounds[kept],
        values=chart.values[kept],
        labels=[chart.labels[index] for index in kept],
        band=None if chart.band is None else chart.band[:, kept],
    )


def observed(xs: np.ndarray, ys: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The points that are finite, every k-th and the last, about ``most``."""
    finite = np.flatnonzero(np.isfinite(ys))
    kept = finite[_every(len(finite), most)]
    return xs[kept], ys[kept]


def polyline(x: Scale, y: Scale, xs: np.ndarray, ys: np.ndarray, class_: str) -> Markup:
    """A path through the finite points, broken at the others; points standing alone are dots."""
    finite = np.isfinite(xs) & np.isfinite(ys)
    before, after = np.append(False, finite[:-1]), np.append(finite[1:], False)
    steps = [
        f"{'L' if before[i] else 'M'}{decimal(x(xs[i]))},{decimal(y(ys[i]))}"
        for i in np.flatnonzero(finite & (before | after))
    ]
    dots = [
        element("circle", cx=x(xs[i]), cy=y(ys[i]), r=2.4, class_=f"{class_}-dot")
        for i in np.flatnonzero(finite & ~before & ~after)
    ]
    return join(element("path", d="".join(steps), class_=class_), *dots)


def _every(total: int, most: int) -> np.ndarray:
    """Every k-th index below ``total`` and the last, with the least k that gives about ``most``."""
    stride = max(1, -(-total // most))
    return np.union1d(np.arange(0, total, stride), np.arange(total)[-1:])


def _range_values(chart: LineChart) -> np.ndarray:
    """The values that the y axis must show: the curve, and the context without outliers.

    One diverging client must not flatten everybody's curve. Context further outside its 1 % and
    99 % quantiles than half their distance is cut off at the edge.
    """
    parts = [chart.values]
    for part in (chart.lines, chart.band):
        if part is not None and np.isfinite(part).any():
            finite = part[np.isfinite(part)]
            low, high = np.quantile(finite, (0.01, 0.99))
            reach = 0.5 * (high - low)
            parts.append(finite[(finite >= low - reach) & (finite <= high + reach)])
    return np.concatenate(parts)


def _band(x: Scale, y: Scale, xs: np.ndarray, edges: np.ndarray) -> Markup:
    lower, upper = edges
    keep = np.isfinite(lower) & np.isfinite(upper)
    around = [
        *zip(xs[keep], upper[keep], strict=True),
        *zip(xs[keep][::-1], lower[keep][::-1], strict=True),
    ]
    points = " ".join(f"{decimal(x(a))},{decimal(y(b))}" for a, b in around)
    return element("polygon", points=points, class_="band")


def _marks(x: Scale, y: Scale, marked: frozenset[int]) -> list[Markup]:
    return [
        element("path", d=f"M{decimal(x(at))},{decimal(y.start - 1)}l-4,-8h8z", class_="mark")
        for at in sorted(marked)
    ]


def _hover(x: Scale, y: Scale, chart: LineChart) -> list[Markup]:
    """One invisible stripe a round; pointing at it shows a rule, a dot and the round's label."""
    places = [x(value) for value in chart.rounds]
    between = [(a + b) / 2 for a, b in itertools.pairwise(places)]
    edges = [x.start - 6, *between, x.stop + 6]
    stripes = []
    for at, (left, right), value, label in zip(
        places, itertools.pairwise(edges), chart.values, chart.labels, strict=True
    ):
        parts = [
            element("title", label),
            svg.rect(left, y.stop, right - left, y.start - y.stop),
            svg.line(at, y.stop, at, y.start),
        ]
        if np.isfinite(value):
            parts.append(element("circle", cx=at, cy=y(float(value)), r=3.2))
        stripes.append(element("g", *parts, class_="hover"))
    return stripes
