"""Charts of an evaluation: curves, calibration, agreement. Pure functions from arrays to SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ufm_jax.evaluation.readers import ReaderResult
from ufm_jax.evaluation.results import CalibrationCurve, PrecisionRecallCurve, RocCurve
from ufm_jax.report import svg
from ufm_jax.report.axes import Scale, padded_range, tick_label, ticks
from ufm_jax.report.charts import polyline
from ufm_jax.report.markup import Markup, element, join

_SIDE, _LEFT, _RIGHT, _TOP, _BOTTOM = 340, 46, 12, 24, 40


@dataclass(frozen=True)
class Axes:
    """A square plot: scales, and what they show with its unit."""

    x: Scale
    y: Scale
    x_label: str
    y_label: str


def roc_chart(name: str, curve: RocCurve, readers: Sequence[ReaderResult] = ()) -> Markup:
    """Sensitivity over 1 - specificity, chance as a thin line, readers as dots."""
    axes = _unit_axes("1 − specificity", "sensitivity")
    dots = [_dot(axes, *one.roc_point, f"reader {one.reader}", "mark") for one in readers]
    return _plot(
        axes,
        f"ROC curve of {name}",
        _diagonal(axes),
        polyline(axes.x, axes.y, curve.false_positive_rate, curve.true_positive_rate, "curve"),
        *dots,
    )


def precision_recall_chart(name: str, curve: PrecisionRecallCurve) -> Markup:
    """Precision over recall, in steps: between two points there is no threshold."""
    axes = _unit_axes("recall (sensitivity)", "precision")
    # From high recall to low: the precision of a point holds down to the next one's recall.
    recall = np.repeat(curve.recall, 2)[1:]
    precision = np.repeat(curve.precision, 2)[:-1]
    return _plot(
        axes,
        f"Precision-recall curve of {name}",
        polyline(axes.x, axes.y, recall, precision, "curve"),
    )


def calibration_chart(name: str, curve: CalibrationCurve) -> Markup:
    """Observed share over predicted probability; larger dots hold more images."""
    axes = _unit_axes("predicted probability", "observed share")
    most = max(int(curve.counts.max(initial=1)), 1)
    dots = [
        _dot(axes, float(p), float(o), f"{int(n)} images", "dot", 2.5 + 5 * np.sqrt(n / most))
        for p, o, n in zip(curve.predicted, curve.observed, curve.counts, strict=True)
    ]
    return _plot(
        axes,
        f"Calibration of {name}",
        _diagonal(axes),
        polyline(axes.x, axes.y, curve.predicted, curve.observed, "context"),
        *dots,
    )


def agreement_chart(measured: np.ndarray, reference: np.ndarray, unit: str) -> Markup:
    """Measured against true values, the line of equality behind."""
    low, high = padded_range(np.concatenate([measured, reference]))
    axes = _axes((low, high), (low, high), f"true, {unit}", f"measured, {unit}")
    return _plot(
        axes, "Measured against true values", _diagonal(axes), *_dots(axes, reference, measured)
    )


def difference_chart(
    measured: np.ndarray, reference: np.ndarray, lines: Sequence[tuple[str, float]], unit: str
) -> Markup:
    """Difference over mean (Bland and Altman 1986), with named horizontal lines."""
    mean, difference = (measured + reference) / 2, measured - reference
    levels = np.array([value for _, value in lines], float)
    y_range = padded_range(np.concatenate([difference, levels, [0.0]]))
    axes = _axes(padded_range(mean), y_range, f"mean of both, {unit}", f"measured − true, {unit}")
    drawn = [
        join(
            svg.line(axes.x.start, axes.y(value), axes.x.stop, axes.y(value), "axis"),
            svg.text(name, axes.x.stop, axes.y(value) - 4, "label end"),
        )
        for name, value in lines
        if np.isfinite(value)
    ]
    return _plot(axes, "Differences over means", *drawn, *_dots(axes, mean, difference))


def score_chart(rounds: Sequence[int], scores: Sequence[float], name: str, chosen: int) -> Markup:
    """The validation score over rounds, the chosen one marked."""
    xs, ys = np.array(rounds, float), np.array(scores, float)
    x_range = (0.0, max(float(xs.max(initial=1)), 1.0))
    axes = _axes(x_range, padded_range(ys), "rounds", f"{name}, validation")
    at = np.flatnonzero(xs == chosen)
    mark = [_dot(axes, xs[i], ys[i], f"chosen: {ys[i]:.3f}", "mark", 4.5) for i in at[:1]]
    return _plot(axes, f"{name} by round", polyline(axes.x, axes.y, xs, ys, "curve"), *mark)


def loss_chart(losses: Sequence[float]) -> Markup:
    """The training loss over rounds."""
    ys = np.array(losses, float)
    axes = _axes((0.0, max(len(ys), 1.0)), padded_range(ys), "rounds", "training loss")
    curve = polyline(axes.x, axes.y, np.arange(1, len(ys) + 1), ys, "curve")
    return _plot(axes, "Training loss by round", curve)


def _unit_axes(x_label: str, y_label: str) -> Axes:
    return _axes((0.0, 1.0), (0.0, 1.0), x_label, y_label)


def _axes(
    x_range: tuple[float, float], y_range: tuple[float, float], x_label: str, y_label: str
) -> Axes:
    x = Scale(*x_range, _LEFT, _SIDE - _RIGHT)
    return Axes(x, Scale(*y_range, _SIDE - _BOTTOM, _TOP), x_label, y_label)


def _plot(axes: Axes, description: str, *marks: Markup) -> Markup:
    """Marks over a grid, in a square."""
    x, y = axes.x, axes.y
    parts = []
    y_ticks, x_ticks = ticks(y.low, y.high, 5), ticks(x.low, x.high, 5)
    for value in y_ticks:
        parts.append(svg.line(x.start, y(value), x.stop, y(value), "grid"))
        parts.append(svg.text(tick_label(value, y_ticks), x.start - 8, y(value) + 4, "tick end"))
    parts += [
        svg.text(tick_label(value, x_ticks), x(value), y.start + 16, "tick middle")
        for value in x_ticks
    ]
    parts.append(svg.line(x.start, y.start, x.stop, y.start, "axis"))
    parts.append(svg.text(axes.y_label, 0, 10, "label"))
    parts.append(svg.text(axes.x_label, x.stop, _SIDE - 6, "label end"))
    return svg.chart(*parts, *marks, width=_SIDE, height=_SIDE, description=description)


def _diagonal(axes: Axes) -> Markup:
    ends = np.array([axes.x.low, axes.x.high])
    return polyline(axes.x, axes.y, ends, ends, "context")


def _dots(axes: Axes, xs: np.ndarray, ys: np.ndarray) -> list[Markup]:
    return [
        _dot(axes, float(x), float(y), f"{x:.1f}, {y:.1f}", "dot", 2.2)
        for x, y in zip(xs, ys, strict=True)
    ]


def _dot(axes: Axes, x: float, y: float, title: str, class_: str, radius: float = 4.0) -> Markup:
    """A dot that says ``title``; nothing where a coordinate is undefined."""
    if not (np.isfinite(x) and np.isfinite(y)):
        return Markup("")
    return element(
        "circle",
        element("title", title),
        cx=float(axes.x(x)),
        cy=float(axes.y(y)),
        r=float(radius),
        class_=class_,
    )
