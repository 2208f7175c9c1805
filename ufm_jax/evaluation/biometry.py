"""Measurements on masks: head circumference and angle of progression, and their errors."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy import ndimage

from ufm_jax.evaluation.ellipse import Ellipse, fit_ellipse
from ufm_jax.evaluation.intervals import (
    Bootstrap,
    Measure,
    describe,
    divide,
    estimates,
    group_numbers,
)
from ufm_jax.evaluation.results import MeasurementResult
from ufm_jax.evaluation.surfaces import check_spacing

_NORMAL_95 = 1.959963984540054

UNITS: Mapping[str, str] = {"head_circumference": "mm", "angle_of_progression": "degrees"}
"""Unit of each measurement."""

Outline = Literal["edges", "pixels"]
"""Where the outline of a mask lies, see ``outline``."""


def fit_mask(
    mask: np.ndarray, spacing: float | Sequence[float] = 1.0, at: Outline = "edges"
) -> Ellipse:
    """The ellipse of a mask's largest component, holes filled; a head has its circumference.

    Args:
        mask: bool [H, W].
        spacing: mm per pixel, one number or (of rows, of columns); 1 = the ellipse is in pixels.
        at: Where the outline lies, see ``outline``.

    Returns:
        The ellipse, in the unit of the spacing; pixel (0, 0) is centred at the origin.

    Raises:
        ValueError: If the mask is empty or too small for an ellipse.
    """
    return fit_ellipse(outline(largest_component(mask), at) * check_spacing(spacing))


def angle_of_progression(
    symphysis: np.ndarray,
    head: np.ndarray,
    spacing: float | Sequence[float] = 1.0,
    lower_end: Literal["right", "left"] = "right",
) -> float:
    """Angle of progression, in degrees.

    It lies between the long axis of the pubic symphysis and the tangent from its lower (caudal) end
    to the leading edge of the fetal head, both as fitted ellipses. The tangent is the one of two
    that makes the larger angle with the axis (Barbera et al., Ultrasound Obstet Gynecol 33:313,
    2009).

    Args:
        symphysis: bool [H, W].
        head: bool [H, W].
        spacing: mm per pixel, one number or (of rows, of columns); matters only if the two differ.
        lower_end: The side of the image on which the symphysis' lower end lies: 'right' where the
            mother's front is on the left, as in JNU-IFM and the FH-PS-AOP challenge.

    Raises:
        ValueError: If a mask is empty or too small, or the lower end lies in the head.
    """
    if lower_end not in ("right", "left"):
        raise ValueError(f"lower_end {lower_end!r}: use 'right' or 'left'")
    left, right = fit_mask(symphysis, spacing).long_axis()
    apex, other = (right, left) if lower_end == "right" else (left, right)
    touches = fit_mask(head, spacing).tangent_points(apex)
    axis = (other - apex) / np.linalg.norm(other - apex)
    tangents = (touches - apex) / np.linalg.norm(touches - apex, axis=1, keepdims=True)
    return float(np.degrees(np.arccos(np.clip(tangents @ axis, -1, 1))).max())


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest component of a mask (neighbours share an edge), its holes filled, bool [H, W].

    Raises:
        ValueError: If the mask is empty.
    """
    numbers, count = ndimage.label(np.asarray(mask, bool))
    if not count:
        raise ValueError("the mask is empty: there is nothing to measure")
    sizes = np.bincount(numbers.ravel())[1:]
    return ndimage.binary_fill_holes(numbers == 1 + int(sizes.argmax()))


def outline(mask: np.ndarray, at: Outline = "edges") -> np.ndarray:
    """Points of a mask's outline, float64 [n, 2], (row, column).

    The outline has no points where the mask touches the image's border, since it is unknown there.

    Args:
        mask: bool [H, W].
        at: 'edges', midpoints between a pixel in the mask and a neighbour that is not: on average
            on the outline of what was drawn. 'pixels', centres of the mask's boundary pixels, as
            contour tracing gives them: about 0.45 pixels inside, a circumference 2.8 pixels
            shorter. It suits masks that are drawn too large, as HC18's are (docs/evaluation.md).

    Raises:
        ValueError: If ``at`` is neither.
    """
    mask = np.asarray(mask, bool)
    if at == "pixels":
        return np.argwhere(mask & ~ndimage.binary_erosion(mask, border_value=1)).astype(np.float64)
    if at != "edges":
        raise ValueError(f"outline at {at!r}: use 'edges' or 'pixels'")
    down = np.argwhere(mask[1:] != mask[:-1]) + np.array([0.5, 0.0])
    across = np.argwhere(mask[:, 1:] != mask[:, :-1]) + np.array([0.0, 0.5])
    return np.concatenate([down, across])


def measurement_errors(
    measured: np.ndarray,
    reference: np.ndarray,
    *,
    unit: str,
    groups: np.ndarray,
    bootstrap: Bootstrap | None = None,
) -> MeasurementResult:
    """Errors of measured values.

    Args:
        measured: float [R]; nan = nothing could be measured, which counts as missed alone.
        reference: float [R], not nan.
        unit: The unit of both.
        groups: [R], the group (patient) of each row.
        bootstrap: How to make intervals; None = none.

    Raises:
        ValueError: If shapes do not fit, a reference is not a positive number, or nothing was
            measured.
    """
    measured, reference = np.asarray(measured, np.float64), np.asarray(reference, np.float64)
    if measured.shape != reference.shape or measured.ndim != 1:
        raise ValueError(f"measured {measured.shape} and reference {reference.shape}: both are [R]")
    numbers, _ = group_numbers(groups, len(measured))
    if not (np.isfinite(reference) & (reference > 0)).all():
        raise ValueError("every reference must be a positive number: leave the other rows out")
    known = np.isfinite(measured)
    if not known.any():
        raise ValueError(f"all {len(measured)} masks are empty: nothing could be measured")
    found = estimates(
        _measure_errors(measured[known] - reference[known], reference[known]),
        numbers[known],
        bootstrap,
    )
    return MeasurementResult(
        unit=unit,
        num_rows=len(measured),
        missed=int((~known).sum()),
        metrics=found,
        interval=describe(bootstrap, group_numbers(numbers[known])[1]),
    )


def _measure_errors(errors: np.ndarray, reference: np.ndarray) -> Measure:
    """The measure of an error's figures, from errors [n]."""
    columns = np.stack(
        [np.abs(errors), errors, errors**2, 100 * np.abs(errors) / reference], axis=1
    )

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = weights.sum(1)
        mae, bias, square, percent = divide(weights @ columns, total[:, None]).T
        # Sample variance; a difference of two close means may fall below 0 by rounding.
        variance = divide(np.maximum(square - bias**2, 0) * total, total - 1)
        reach = _NORMAL_95 * np.sqrt(variance)
        return {
            "mae": mae,
            "rmse": np.sqrt(square),
            "bias": bias,
            "limits_low": bias - reach,
            "limits_high": bias + reach,
            "mae_percent": percent,
        }

    return measure
