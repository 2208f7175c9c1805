"""The parts of the report: images, axes, labels and escaping."""

import base64
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ufm_jax.report.axes import padded_range, tick_label, ticks
from ufm_jax.report.charts import observed
from ufm_jax.report.gantt import fitted
from ufm_jax.report.images import data_uri, heat_colours, hidden_by_texture, kept_patches
from ufm_jax.report.markup import Markup, element
from ufm_jax.report.numbers import size


def test_images_keep_every_grey_value():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    png = base64.b64decode(data_uri(image, 16).split(",")[1])
    with Image.open(io.BytesIO(png)) as back:
        assert back.mode == "L"
        np.testing.assert_array_equal(np.asarray(back), image)


def test_hidden_patches_are_blanked_and_kept_ones_are_unchanged():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    shown = kept_patches(image, np.array([[0, 1], [1, 0]]), blank=200)
    np.testing.assert_array_equal(shown[:4, :4], image[:4, :4])
    np.testing.assert_array_equal(shown[4:, 4:], image[4:, 4:])
    assert (shown[:4, 4:] == 200).all()
    assert (shown[4:, :4] == 200).all()


def test_masks_that_follow_texture_are_measured_as_such():
    score = np.arange(16.0).reshape(1, 4, 4)
    assert hidden_by_texture(score, (score >= 8).astype(int)) == (0.0, 1.0)
    assert hidden_by_texture(score, (score < 8).astype(int)) == (1.0, 0.0)


def test_the_heat_map_grows_lighter_with_the_score():
    lightness = heat_colours(np.linspace(0, 1, 50)).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()


finite = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(low=finite, size=st.floats(1e-3, 1e6), most=st.integers(2, 9), whole=st.booleans())
def test_ticks_lie_inside_the_axis_evenly_and_read_differently(low, size, most, whole):
    high = low + size
    values = ticks(low, high, most, whole=whole)
    slack = 1e-6 * size
    assert all(low - slack <= value <= high + slack for value in values)
    assert len(values) <= most + 1
    steps = np.diff(values)
    np.testing.assert_allclose(steps, steps[:1].repeat(len(steps)), rtol=1e-6)
    assert not whole or all(value == round(value) for value in values)
    assert len({tick_label(value, values) for value in values}) == len(values)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0, 1e38, 2e38], ["0", "1.0e+38", "2.0e+38"]),
        ([0.0, 5e-9, 1e-8], ["0", "5.0e-09", "1.0e-08"]),
        ([0.2, 0.4, 0.6], ["0.2", "0.4", "0.6"]),
        ([0.0, 2000.0], ["0", "2,000"]),
        ([3.0], ["3"]),
    ],
)
def test_ticks_are_written_short(values, labels):
    assert [tick_label(value, values) for value in values] == labels


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan) | st.just(math.inf), max_size=8))
def test_an_axis_is_never_empty_and_holds_the_finite_values(values):
    array = np.array(values, np.float64)
    low, high = padded_range(array)
    assert low < high
    assert all(low <= value <= high for value in array[np.isfinite(array)])


@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=60), st.integers(1, 20))
def test_thinning_keeps_the_last_finite_point_and_the_limit(values, most):
    ys = np.array(values, np.float64)
    xs, kept = observed(np.arange(len(ys)), ys, most)
    finite_at = np.flatnonzero(np.isfinite(ys))
    assert len(xs) <= most + 1
    assert np.isin(xs, finite_at).all()
    assert not finite_at.size or xs[-1] == finite_at[-1]
    np.testing.assert_array_equal(kept, ys[xs])


@given(st.text(), st.floats(0, 400))
def test_a_bars_label_is_cut_to_its_width(name, width):
    label = fitted(name, width)
    assert len(label) * 6.4 <= max(width, 0)
    assert label in ("", name) or label.endswith("…")


@given(st.text())
def test_only_markup_passes_unescaped(text):
    written = element("p", text, title=text)
    inside = written.removeprefix("<p").removesuffix("</p>")
    assert inside.count("<") == 0
    assert inside.count('"') == 2
    assert element("p", Markup("<b>x</b>")) == "<p><b>x</b></p>"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0.0 MB"),
        (93.5e6, "93.5 MB"),
        (999e6, "999.0 MB"),
        (2e9, "2.0 GB"),
        (1.4958e12, "1.5 TB"),
    ],
)
def test_bytes_are_written_in_the_unit_that_suits(amount, text):
    assert size(amount).replace("\N{NO-BREAK SPACE}", " ") == text
