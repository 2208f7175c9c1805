"""Biometry: ellipses drawn with known answers, at any rotation, and the real heads of HC18."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import integrate

from ufm_jax.evaluation.biometry import (
    angle_of_progression,
    fit_mask,
    measurement_errors,
)
from ufm_jax.evaluation.ellipse import Ellipse, fit_ellipse
from ufm_jax.evaluation.intervals import Bootstrap

ANGLES = st.floats(-90, 90)


def head_circumference(mask, spacing, at="edges"):
    return fit_mask(mask, spacing, at).circumference


def ellipse(centre, semi_major, semi_minor, degrees):
    turn = np.radians(degrees)
    direction = (float(np.sin(turn)), float(np.cos(turn)))
    return Ellipse(centre, semi_major, semi_minor, direction)


def draw(shape, drawn, spacing=(1.0, 1.0)):
    """Pixels whose centre, in mm, lies in an ellipse in mm."""
    row, column = np.indices(shape)
    row, column = row * spacing[0] - drawn.centre[0], column * spacing[1] - drawn.centre[1]
    (a, b), (long, short) = drawn.direction, (drawn.semi_major, drawn.semi_minor)
    return ((row * a + column * b) / long) ** 2 + ((column * a - row * b) / short) ** 2 <= 1


def perimeter(drawn):
    """Arc length by integration, an independent answer."""
    a, b = drawn.semi_major, drawn.semi_minor
    return integrate.quad(lambda t: np.hypot(a * np.sin(t), b * np.cos(t)), 0, 2 * np.pi)[0]


@settings(max_examples=30)
@given(degrees=ANGLES, ratio=st.floats(0.2, 1.0), shift=st.floats(-1000, 1000))
def test_points_of_an_ellipse_give_it_back(degrees, ratio, shift):
    true = ellipse((shift, -shift / 3), 40.0, 40 * ratio, degrees)
    t = np.linspace(0, 2 * np.pi, 31)[:-1]
    points = np.array(true.centre) + np.stack([np.cos(t), np.sin(t)], 1) @ true.half_axes().T
    found = fit_ellipse(points)
    np.testing.assert_allclose(found.centre, true.centre, atol=1e-6)
    assert found.semi_major == pytest.approx(true.semi_major, rel=1e-7)
    assert found.semi_minor == pytest.approx(true.semi_minor, rel=1e-7)
    if ratio < 0.99:
        along = abs(np.dot(found.direction, true.direction))
        assert along == pytest.approx(1, abs=1e-7)
    assert found.circumference == pytest.approx(perimeter(true), rel=1e-7)


@pytest.mark.parametrize("radius", [12, 60])
def test_circumference_of_drawn_heads_is_right_and_without_bias(radius):
    rng = np.random.Generator(np.random.Philox(radius))
    errors, inside = [], []
    for _ in range(60):
        centre = (70 + rng.random(), 70 + rng.random())
        drawn = (radius, radius * rng.uniform(0.6, 1), rng.uniform(-90, 90))
        true = ellipse(centre, *drawn)
        mask = draw((141, 141), true)
        errors.append(head_circumference(mask, 1.0) - perimeter(true))
        inside.append(head_circumference(mask, 1.0, "pixels") - perimeter(true))
    assert np.abs(errors).max() < 1.2
    assert abs(np.mean(errors)) < 0.1
    # Centres of boundary pixels lie inside: what `at="pixels"` documents.
    assert np.mean(inside) == pytest.approx(-2.84, abs=0.15)


def test_spacing_of_rows_and_columns():
    true = ellipse((15.0, 12.0), 9.0, 6.0, 35)
    mask = draw((150, 80), true, (0.2, 0.3))
    assert head_circumference(mask, (0.2, 0.3)) == pytest.approx(perimeter(true), rel=2e-3)
    same = draw((150, 120), true, (0.2, 0.2))
    assert head_circumference(same, 0.2) == pytest.approx(perimeter(true), rel=2e-3)


def test_holes_islands_and_the_border_do_not_count():
    true = ellipse((70.0, 90.0), 60.0, 45.0, 20)
    mask = draw((140, 180), true)
    clean = head_circumference(mask, 1.0)
    mask[60:80, 80:100] = False
    mask[2:6, 2:6] = True
    assert head_circumference(mask, 1.0) == clean
    cut = draw((140, 180), true)[:, 55:]
    assert head_circumference(cut, 1.0) == pytest.approx(clean, rel=5e-3)


@settings(max_examples=30)
@given(degrees=ANGLES, ratio=st.floats(0.2, 1.0), angle=st.floats(0, 6.28), away=st.floats(1.05, 9))
def test_tangents_touch_the_ellipse_in_one_point(degrees, ratio, angle, away):
    true = ellipse((5.0, -3.0), 20.0, 20 * ratio, degrees)
    circle = np.array([np.cos(angle), np.sin(angle)])
    point = np.array(true.centre) + true.half_axes() @ circle * away
    for touch in true.tangent_points(point):
        along = point + np.linspace(-1, 3, 401)[:, None] * (touch - point)
        local = np.linalg.solve(true.half_axes(), (along - true.centre).T)
        distance = np.hypot(*local)
        assert distance.min() == pytest.approx(1, abs=1e-6)
        assert distance[200] == pytest.approx(1, abs=1e-6)


@settings(max_examples=20)
@given(tilt=st.floats(-70, 70), progression=st.floats(75, 150))
def test_angle_of_progression_of_a_drawn_pair(tilt, progression):
    # Symphysis from the lower end back along `tilt`; the head is a circle that touches a ray from
    # the lower end at `progression` from that direction, below it (turning from left over down).
    def towards(angle):
        return np.array([np.sin(angle), np.cos(angle)])

    apex, radius = np.array([200.0, 260.0]), 70.0
    upper = np.radians(180 + tilt)
    symphysis = ellipse(tuple(apex + 45 * towards(upper)), 45.0, 16.0, tilt)
    ray = upper - np.radians(progression)
    centre = apex + 110 * towards(ray) + radius * towards(ray + np.pi / 2)
    head = ellipse(tuple(centre), radius, radius, 0)
    masks = [draw((520, 520), shape) for shape in (symphysis, head)]
    assert angle_of_progression(*masks) == pytest.approx(progression, abs=0.7)
    mirrored = [mask[:, ::-1] for mask in masks]
    found = angle_of_progression(*mirrored, lower_end="left")
    assert found == pytest.approx(progression, abs=0.7)


def test_circumference_of_real_heads(shared):
    folder = shared / "data" / "hc18_fetal_head"
    with (folder / "index.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["mask"]][::10]
    found: dict[str, list[float]] = {"edges": [], "pixels": []}
    reference = []
    for row in rows:
        notes = dict(pair.split("=") for pair in row["notes"].split())
        with Image.open(folder / row["mask"]) as mask:
            spacing = float(notes["px_mm"]) * int(row["orig_width"]) / mask.width
            for at, values in found.items():
                values.append(head_circumference(np.asarray(mask) > 0, spacing, at))
        reference.append(float(notes["HC_mm"]))
    result = {
        at: measurement_errors(
            np.array(values), np.array(reference), unit="mm", groups=np.arange(len(rows))
        )
        for at, values in found.items()
    }
    assert result["pixels"].missed == 0
    assert result["pixels"].metrics["mae"].value < 0.5
    # The masks are drawn larger than the published circumference says.
    assert 1 < result["edges"].metrics["bias"].value < 1.6
    limits = [result["edges"].metrics[f"limits_{end}"].value for end in ("low", "high")]
    assert limits[1] - limits[0] < 2.5


def test_errors_by_hand():
    # Errors +2, -1, +2 of 100, 50, 80.
    result = measurement_errors(
        np.array([102.0, 49, 82, np.nan]),
        np.array([100.0, 50, 80, 90]),
        unit="mm",
        groups=np.array([0, 1, 2, 3]),
        bootstrap=Bootstrap(replicates=100),
    )
    found = {name: figure.value for name, figure in result.metrics.items()}
    sd = np.std([2, -1, 2], ddof=1)
    expected = {
        "mae": 5 / 3,
        "rmse": np.sqrt(3),
        "bias": 1.0,
        "limits_low": 1 - 1.96 * sd,
        "limits_high": 1 + 1.96 * sd,
        "mae_percent": (2 + 2 + 2.5) / 3,
    }
    assert found == pytest.approx(expected, rel=1e-4)
    assert (result.num_rows, result.missed, result.metrics["mae"].n) == (4, 1, 3)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((9, 9), bool), "empty"),
        (np.eye(9, dtype=bool)[:1], "points"),
        (np.ones((9, 9), bool), "0 outline points"),
    ],
)
def test_what_cannot_be_measured_is_an_error(mask, message):
    with pytest.raises(ValueError, match=message):
        fit_mask(mask)


def test_points_on_a_line_are_no_ellipse():
    with pytest.raises(ValueError, match="on a line"):
        fit_ellipse(np.stack([np.arange(9.0), 2 * np.arange(9.0)], 1))


def test_a_symphysis_that_ends_in_the_head_has_no_angle():
    head = draw((100, 100), ellipse((50.0, 70.0), 25.0, 20.0, 0))
    symphysis = draw((100, 100), ellipse((50.0, 50.0), 20.0, 6.0, 0))
    with pytest.raises(ValueError, match="no tangent"):
        angle_of_progression(symphysis, head)
    with pytest.raises(ValueError, match="'right' or 'left'"):
        angle_of_progression(symphysis, head, lower_end="down")
