"""Axes: from data to SVG coordinates, where the ticks go, and how both are drawn."""

import dataclasses
import itertools
import math

import numpy as np

from ufm_jax.report import svg
from ufm_jax.report.markup import Markup, join

_MARGIN = 0.06
"""Share of a range that is added at either end of its axis, unless that end is pinned to zero."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """A linear map of the interval low..high to the pixels start..stop (stop may be smaller)."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The pixel of ``value``, which may lie outside the interval."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Round numbers inside low..high, in steps of 1, 2 or 5 times a power of ten.

    Args:
        low: Lower end of the axis.
        high: Upper end, greater than ``low``.
        most: Upper bound on the number of ticks, at least 2.
        whole: Steps of at least 1, for axes that count.

    Returns:
        Ticks in increasing order.
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    if whole:
        step = max(1.0, round(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)][: most + 1]


def tick_label(value: float, values: list[float]) -> str:
    """Writes a tick with just the decimals that the axis needs; very large or small with exponent.

    Args:
        value: One of ``values``.
        values: All ticks of the axis.
    """
    step = min((b - a for a, b in itertools.pairwise(values)), default=abs(value) or 1.0)
    largest = max(abs(tick) for tick in values)
    if largest >= 1e9 or step < 1e-6:
        digits = max(0, math.ceil(math.log10(largest / step) - 1e-9)) if largest else 0
        return f"{value:.{digits}e}" if value else "0"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}"


def axes(
    x: Scale, y: Scale, x_label: str, y_label: str, x_ticks: list[float], bottom: float
) -> Markup:
    """Grid lines, ticks and labels of a plot; ``bottom`` is the height of the x axis' label."""
    parts = []
    y_ticks = ticks(y.low, y.high, 5)
    for value in y_ticks:
        parts.append(svg.line(x.start, y(value), x.stop, y(value), "grid"))
        parts.append(svg.text(tick_label(value, y_ticks), x.start - 8, y(value) + 4, "tick end"))
    return join(
        *parts,
        *x_labels(x, y.start, x_ticks),
        svg.line(x.start, y.start, x.stop, y.start, "axis"),
        svg.text(y_label, 0, 10, "label"),
        svg.text(x_label, x.stop, bottom, "label end"),
    )


def x_labels(x: Scale, at: float, values: list[float]) -> list[Markup]:
    """The tick labels of an x axis at height ``at``."""
    return [svg.text(tick_label(v, values), x(v), at + 16, "tick middle") for v in values]


def padded_range(values: np.ndarray, *, from_zero: bool = False) -> tuple[float, float]:
    """An axis range around the finite ``values`` that is never empty.

    Args:
        values: Any shape; nan and infinite entries are ignored.
        from_zero: Begin the axis at 0.

    Returns:
        (low, high) with low < high; (0, 1) where no value is finite.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = (0.0 if from_zero else float(finite.min())), float(finite.max())
    size, spread = max(abs(low), abs(high)), high - low
    if spread <= 1e-9 * size:  # equal but for rounding
        spread = size
    if spread < 1e-30:
        spread = 1.0
    return (0.0 if from_zero else low - _MARGIN * spread), high + _MARGIN * spread
