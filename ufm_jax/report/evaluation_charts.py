"""Charts of an evaluation: curves, calibration, agreement. Pure functions from arrays to SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ufm_jax.evaluation.readers import ReaderResult
from ufm_jax.evaluation.results import CalibrationCurve, PrecisionRecallCurve, RocCurve
from ufm_jax.report import svg
from ufm_jax.report.axes import Scale, axes, padded_range, ticks
from ufm_jax.report.charts import polyline
from ufm_jax.report.markup import Markup, element, join

_SIDE, _LEFT, _RIGHT, _TOP, _BOTTOM = 340, 46, 12, 24, 40


@dataclass(frozen=True)
class Plot:
    """The axes of a square plot: scales, and what they show with its unit."""

    x: Scale
    y: Scale
    x_label: str
    y_label: str


def roc_chart(name: str, curve: RocCurve, readers: Sequence[ReaderResult] = ()) -> Markup:
    """Sensitivity over 1 - specificity, chance as a thin line, readers as dots."""
    plot = _unit_plot("1 − specificity", "sensitivity")
    dots = [_dot(plot, *one.roc_point, f"reader {one.reader}", "mark") for one in readers]
    return _draw(
        plot,
        f"ROC curve of {name}",
        _diagonal(plot),
        polyline(plot.x, plot.y, curve.false_positive_rate, curve.true_positive_rate, "curve"),
        *dots,
    )


def precision_recall_chart(name: str, curve: PrecisionRecallCurve) -> Markup:
    """Precision over recall, in steps, since no threshold lies between two points."""
    plot = _unit_plot("recall (sensitivity)", "precision")
    # From high recall to low: the precision of a point holds down to the next one's recall.
    recall = np.repeat(curve.recall, 2)[1:]
    precision = np.repeat(curve.precision, 2)[:-1]
    return _draw(
        plot,
        f"Precision-recall curve of {name}",
        polyline(plot.x, plot.y, recall, precision, "curve"),
    )


def calibration_chart(name: str, curve: CalibrationCurve) -> Markup:
    """Observed share over predicted probability; larger dots hold more images."""
    plot = _unit_plot("predicted probability", "observed share")
    most = max(int(curve.counts.max(initial=1)), 1)
    dots = [
        _dot(plot, float(p), float(o), f"{int(n)} images", "dot", 2.5 + 5 * np.sqrt(n / most))
        for p, o, n in zip(curve.predicted, curve.observed, curve.counts, strict=True)
    ]
    return _draw(
        plot,
        f"Calibration of {name}",
        _diagonal(plot),
        polyline(plot.x, plot.y, curve.predicted, curve.observed, "context"),
        *dots,
    )


def agreement_chart(measured: np.ndarray, reference: np.ndarray, unit: str) -> Markup:
    """Measured against true values, the line of equality behind."""
    low, high = padded_range(np.concatenate([measured, reference]))
    plot = _make_plot((low, high), (low, high), f"true, {unit}", f"measured, {unit}")
    return _draw(
        plot, "Measured against true values", _diagonal(plot), *_dots(plot, reference, measured)
    )


def difference_chart(
    measured: np.ndarray, reference: np.ndarray, lines: Sequence[tuple[str, float]], unit: str
) -> Markup:
    """Difference over mean (Bland and Altman 1986), with named horizontal lines."""
    mean, difference = (measured + reference) / 2, measured - reference
    levels = np.array([value for _, value in lines], float)
    y_range = padded_range(np.concatenate([difference, levels, [0.0]]))
    plot = _make_plot(
        padded_range(mean), y_range, f"mean of both, {unit}", f"measured − true, {unit}"
    )
    drawn = [
        join(
            svg.line(plot.x.start, plot.y(value), plot.x.stop, plot.y(value), "axis"),
            svg.text(name, plot.x.stop, plot.y(value) - 4, "label end"),
        )
        for name, value in lines
        if np.isfinite(value)
    ]
    return _draw(plot, "Differences over means", *drawn, *_dots(plot, mean, difference))


def score_chart(rounds: Sequence[int], scores: Sequence[float], name: str, chosen: int) -> Markup:
    """The validation score over rounds, the chosen one marked."""
    xs, ys = np.array(rounds, float), np.array(scores, float)
    x_range = (0.0, max(float(xs.max(initial=1)), 1.0))
    plot = _make_plot(x_range, padded_range(ys), "rounds", f"{name}, validation")
    at = np.flatnonzero(xs == chosen)
    mark = [_dot(plot, xs[i], ys[i], f"chosen: {ys[i]:.3f}", "mark", 4.5) for i in at[:1]]
    return _draw(plot, f"{name} by round", polyline(plot.x, plot.y, xs, ys, "curve"), *mark)


def loss_chart(losses: Sequence[float]) -> Markup:
    """The training loss over rounds."""
    ys = np.array(losses, float)
    plot = _make_plot((0.0, max(len(ys), 1.0)), padded_range(ys), "rounds", "training loss")
    curve = polyline(plot.x, plot.y, np.arange(1, len(ys) + 1), ys, "curve")
    return _draw(plot, "Training loss by round", curve)


def _unit_plot(x_label: str, y_label: str) -> Plot:
    return _make_plot((0.0, 1.0), (0.0, 1.0), x_label, y_label)


def _make_plot(
    x_range: tuple[float, float], y_range: tuple[float, float], x_label: str, y_label: str
) -> Plot:
    x = Scale(*x_range, _LEFT, _SIDE - _RIGHT)
    return Plot(x, Scale(*y_range, _SIDE - _BOTTOM, _TOP), x_label, y_label)


def _draw(plot: Plot, description: str, *marks: Markup) -> Markup:
    """A chart of marks over the grid of ``plot``."""
    x, y = plot.x, plot.y
    drawn = axes(x, y, plot.x_label, plot.y_label, ticks(x.low, x.high, 5), _SIDE - 6)
    return svg.chart(drawn, *marks, width=_SIDE, height=_SIDE, description=description)


def _diagonal(plot: Plot) -> Markup:
    ends = np.array([plot.x.low, plot.x.high])
    return polyline(plot.x, plot.y, ends, ends, "context")


def _dots(plot: Plot, xs: np.ndarray, ys: np.ndarray) -> list[Markup]:
    return [
        _dot(plot, float(x), float(y), f"{x:.1f}, {y:.1f}", "dot", 2.2)
        for x, y in zip(xs, ys, strict=True)
    ]


def _dot(plot: Plot, x: float, y: float, title: str, class_: str, radius: float = 4.0) -> Markup:
    """A dot that says ``title``; empty if a coordinate is undefined."""
    if not (np.isfinite(x) and np.isfinite(y)):
        return Markup("")
    return element(
        "circle",
        element("title", title),
        cx=float(plot.x(x)),
        cy=float(plot.y(y)),
        r=float(radius),
        class_=class_,
    )
