"""Scan conversion: round trips, depth downward, sides kept, black outside, nothing else touched."""

import csv
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from ufm_jax.data.geometry.detect import detect_geometry
from ufm_jax.ops.scan_conversion import (
    Fan,
    Rectangle,
    Sector,
    _beam_source,
    _polar_source,
    _sample,
    convert,
    fitted_sector,
    random_convert,
    unwarped_rectangle,
)

SIZE = 128
FAN = Sector(-20.0, 63.0, 40.0, 140.0, -0.5, 0.5)
BOX = Rectangle(0.0, 0.0, 99.0, 119.0)
UNKNOWN = np.zeros(7, np.float32)
LINEAR = np.array([1, *BOX, 0, 0], np.float32)
CONVEX = np.array([2, *FAN], np.float32)
CONVERT = jax.jit(convert)


@partial(jax.jit, static_argnums=(2, 3))
def flatten(image, sector, height, width):
    """Lays a fan's beams side by side: rows are radius, columns are angle."""
    whole = Rectangle(0.0, 0.0, height - 1.0, width - 1.0)
    source = _polar_source(sector, whole, height, width)
    return _sample(image, jnp.array(image.shape[:2]), source)


@partial(jax.jit, static_argnums=(3, 4))
def bend(image, rectangle, sector, height, width):
    """Spreads a linear scan's columns over a fan's beams, its rows over the radius."""
    source = _beam_source(rectangle, sector, height, width)
    return _sample(image, jnp.array(image.shape[:2]), source)


def _smooth(height=SIZE, width=SIZE):
    """A picture without fine detail, [height, width, 1] in 0..255."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.sin(rows / 9) * np.cos(columns / 11) + np.sin((rows + 2 * columns) / 15)
    return jnp.asarray(127 + 60 * waves[..., None], jnp.float32)


def _beyond(sector, height=SIZE, width=SIZE):
    """Pixels by which each pixel lies outside of a fan."""
    rows, columns = np.mgrid[:height, :width]
    down, right = rows - float(sector.apex_row), columns - float(sector.apex_column)
    r, theta = np.hypot(down, right), np.arctan2(right, down)
    sides = r * np.maximum(theta - float(sector.theta_max), float(sector.theta_min) - theta)
    return np.maximum.reduce([float(sector.r_min) - r, r - float(sector.r_max), sides])


def _psnr(one, other):
    return 10 * math.log10(255**2 / np.mean((np.asarray(one) - np.asarray(other)) ** 2))


# Round trips


def test_sector_to_rectangle_and_back_returns_the_inside():
    image = _smooth()
    flat = flatten(image, FAN, 2 * SIZE, 2 * SIZE)
    whole = Rectangle(0, 0, 2 * SIZE - 1, 2 * SIZE - 1)
    back = bend(flat, whole, FAN, SIZE, SIZE)
    inside = _beyond(FAN) < -2
    assert inside.sum() > 5000
    assert _psnr(back[inside], image[inside]) > 40


def test_rectangle_to_sector_and_back_returns_the_image():
    image = _smooth(100, 120)
    fan = Sector(-50.0, 127.5, 100.0, 300.0, -0.6, 0.6)
    bent = bend(image, BOX, fan, 256, 256)
    back = flatten(bent, fan, 100, 120)
    kept = np.asarray(back)[2:-2, 2:-2]
    lit = kept > 0
    assert lit.mean() > 0.9
    assert _psnr(kept[lit], np.asarray(image)[2:-2, 2:-2][lit]) > 40


def test_converting_a_rectangle_twice_returns_it():
    image = _smooth()
    bent, extent = CONVERT(image, jnp.array([SIZE, SIZE]), LINEAR)
    sector, _ = fitted_sector(BOX, Fan(), SIZE)
    flat, extent = CONVERT(bent, extent, jnp.array([2, *sector]))
    rows, columns = extent.tolist()
    truth = jax.image.resize(image[:100, :120], (rows, columns, 1), "linear")
    assert columns / rows == pytest.approx(1.2, abs=0.02)
    assert _psnr(flat[4 : rows - 4, 4 : columns - 4], truth[4:-4, 4:-4]) > 25


def test_converting_a_fan_twice_returns_it():
    flat, middle = CONVERT(_smooth(), jnp.array([SIZE, SIZE]), CONVEX)
    target, _ = unwarped_rectangle(FAN, SIZE)
    fan = Fan(opening=1.0, least_face=0.0)
    bent, _ = convert(flat, middle, jnp.array([1, *target, 0, 0]), fan)
    sector, _ = fitted_sector(target, fan, SIZE)
    assert float(sector.r_min / sector.r_max) == pytest.approx(40 / 140, abs=0.01)
    rows, columns = middle.tolist()
    again = np.asarray(flatten(bent, sector, rows, columns))
    assert _psnr(again[4:-4, 4:-4], flat[4 : rows - 4, 4 : columns - 4]) > 30


# Where things go


def test_a_line_at_depth_d_becomes_an_arc_of_radius_r_min_plus_d():
    depth = 40
    image = jnp.zeros((100, 120, 1)).at[depth].set(255.0)
    fan = Sector(-30.0, 63.0, 50.0, 149.0, -0.4, 0.4)
    bent = np.asarray(bend(image, BOX, fan, SIZE, SIZE))[..., 0]
    rows, columns = np.nonzero(bent > 200)
    radii = np.hypot(rows + 30, columns - 63)
    assert rows.size > 30
    np.testing.assert_allclose(radii, 50 + depth, atol=0.5)


@settings(max_examples=20)
@given(
    half=st.floats(0.15, 1.2),
    face=st.floats(0.1, 3.0),
    depth=st.integers(10, 80),
    share=st.floats(-0.8, 0.8),
)
def test_depth_grows_downward_and_left_stays_left(half, face, depth, share):
    image = jnp.zeros((100, 120, 1)).at[depth - 4 : depth + 4].set(255.0)
    column = round(59.5 + share * 59.5)
    image = image.at[:, max(column - 3, 0) : column + 4].add(500.0)
    sector, _ = fitted_sector(BOX, Fan(2 * half, face), SIZE)
    bent = bend(image, BOX, sector, SIZE, SIZE)
    theta = share * half
    r = sector.r_min + depth / 99 * (sector.r_max - sector.r_min)
    assume(r * 2 * half * 3 / 119 > 1)  # Near a small face the stripe is narrower than a pixel.
    row = round(float(sector.apex_row + r * math.cos(theta)))
    column = round(float(sector.apex_column + r * math.sin(theta)))
    assert bent[row, column, 0] > 500
    flat, _ = CONVERT(bent, jnp.array([SIZE, SIZE]), jnp.array([2, *sector]))
    target, _ = unwarped_rectangle(sector, SIZE)
    row = round(depth / 99 * float(target.bottom))
    column = round((1 + share) / 2 * float(target.right))
    assert flat[row, column, 0] > 350


def test_a_fan_fills_the_canvas_and_nothing_else():
    sides = [(60.0, 200.0), (150.0, 200.0), (200.0, 60.0), (127.0, 127.0)]
    for bottom, right in sides:
        for opening in (0.3, 1.0, 2.8):
            sector, extent = fitted_sector(Rectangle(0, 0, bottom, right), Fan(opening), SIZE)
            rows, columns = np.nonzero(_beyond(sector, 2 * SIZE, 2 * SIZE) <= 0)
            assert (rows.min(), columns.min()) <= (2, 2)
            assert rows.max() + 1 == pytest.approx(int(extent[0]), abs=1.5)
            assert columns.max() + 1 == pytest.approx(int(extent[1]), abs=1.5)
            assert int(extent.max()) == SIZE


def test_an_unwarped_fan_keeps_the_aspect_at_half_depth():
    target, extent = unwarped_rectangle(FAN, SIZE)
    assert int(extent.max()) == SIZE
    assert float(target.right / target.bottom) == pytest.approx(90 * 1.0 / 100, rel=0.02)


# Grey levels


@pytest.mark.parametrize("geometry", [LINEAR, CONVEX])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_constant_stays_constant_inside_and_outside_is_exactly_black(geometry, channels):
    image = jnp.full((SIZE, SIZE, channels), 77, jnp.uint8)
    result, extent = CONVERT(image, jnp.array([SIZE, SIZE]), geometry)
    assert result.dtype == jnp.float32
    assert result.shape == image.shape
    values = np.unique(np.asarray(result))
    np.testing.assert_allclose(values, [0, 77], atol=1e-4)
    assert values[0] == 0
    assert not result[extent[0] :].any()
    assert not result[:, extent[1] :].any()
    if geometry[0] == 1:
        beyond = _beyond(fitted_sector(BOX, Fan(), SIZE)[0])
        assert not np.asarray(result)[beyond > 0.6].any()
        assert np.asarray(result)[beyond < 0.4].all()


def test_what_the_picture_cuts_off_stays_black():
    image = jnp.full((SIZE, SIZE, 1), 50.0)
    flat, extent = CONVERT(image, jnp.array([90, SIZE]), CONVEX)
    target, _ = unwarped_rectangle(FAN, SIZE)
    r = 40 + 100 * np.arange(SIZE) / float(target.bottom)
    middle = np.asarray(flat)[:, int(extent[1]) // 2, 0]
    assert middle[(r < 105) & (r > 41)].all()
    assert not middle[r > 112].any()


@settings(max_examples=25)
@given(
    kind=st.sampled_from([0, 1, 2]),
    numbers=st.lists(st.floats(-300, 300, width=32), min_size=6, max_size=6),
    height=st.integers(1, 32),
    width=st.integers(1, 32),
)
def test_any_geometry_gives_grey_levels_and_an_extent_in_the_canvas(kind, numbers, height, width):
    image = jax.random.uniform(jax.random.key(0), (32, 32, 1)) * 255
    geometry = jnp.array([kind, *numbers], jnp.float32)
    result, extent = CONVERT(image, jnp.array([height, width]), geometry)
    assert bool(jnp.isfinite(result).all())
    assert float(result.min()) >= 0
    assert float(result.max()) <= 255
    assert 1 <= int(extent.min()) <= int(extent.max()) <= 32


def test_the_apex_is_finite():
    image = _smooth()
    phased = Sector(5.0, 64.0, 0.0, 120.0, -0.7, 0.7)
    bent = bend(image, Rectangle(0, 0, 127, 127), phased, SIZE, SIZE)
    flat = flatten(image, phased, SIZE, SIZE)
    assert bool(jnp.isfinite(bent).all() & jnp.isfinite(flat).all())
    assert float(bent[5, 64, 0]) > 0


# Unknown geometry, probability, vmap


def test_an_unknown_geometry_leaves_every_bit():
    image = jax.random.uniform(jax.random.key(1), (SIZE, SIZE, 1)) * 255
    result, extent = CONVERT(image, jnp.array([100, 90]), UNKNOWN)
    np.testing.assert_array_equal(result, image)
    np.testing.assert_array_equal(extent, [100, 90])


def test_a_mixed_batch_is_its_images_one_by_one():
    images = jax.random.uniform(jax.random.key(2), (3, SIZE, SIZE, 1)) * 255
    extents, geometries = jnp.full((3, 2), SIZE), jnp.stack([UNKNOWN, LINEAR, CONVEX])
    batch = jax.jit(jax.vmap(convert))(images, extents, geometries)
    for i in range(3):
        single = CONVERT(images[i], extents[i], geometries[i])
        # A pixel on the scan's very edge may round to its other side.
        assert (np.abs(batch[0][i] - single[0]) > 1e-2).mean() < 1e-3
        assert (batch[1][i] != single[1]).mean() < 1e-3


@pytest.mark.parametrize(("platform", "loops"), [("cpu", 2), ("tpu", 2), ("cuda", 0)])
def test_images_are_taken_in_turn_where_that_is_cheap(platform, loops):
    batch = np.zeros((3, 8, 8, 1), np.uint8), np.zeros((3, 2), np.int32), np.zeros((3, 7))
    # Lanes put a second axis around the batch.
    traced = jax.jit(jax.vmap(jax.vmap(convert))).trace(*(leaf[None] for leaf in batch))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.while") == loops


def test_a_probability_converts_that_share():
    image, extent = _smooth(32, 32), jnp.array([32, 32])
    geometry = jnp.array([1, 0, 0, 31, 31, 0, 0], jnp.float32)

    def changed(probability, key):
        result, _ = random_convert(key, image, extent, geometry, probability)
        return (result != image).any()

    keys = jax.random.split(jax.random.key(3), 400)
    for probability in (0.0, 0.3, 1.0):
        share = float(jax.jit(jax.vmap(partial(changed, probability)))(keys).mean())
        assert share == pytest.approx(probability, abs=0.07 if 0 < probability < 1 else 0)


# Errors


def test_impossible_arguments_are_named():
    image, extent = jnp.zeros((8, 8, 1)), jnp.array([8, 8])
    with pytest.raises(ValueError, match=r"got shape \(8, 8\)"):
        convert(image[..., 0], extent, LINEAR)
    with pytest.raises(ValueError, match="square canvas"):
        convert(image[:4], extent, LINEAR)
    with pytest.raises(ValueError, match=r"geometry \[7\]"):
        convert(image, extent, LINEAR[:6])
    with pytest.raises(ValueError, match=r"probability=1.5"):
        random_convert(jax.random.key(0), image, extent, LINEAR, 1.5)
    with pytest.raises(ValueError, match="opening=4"):
        Fan(opening=4)
    with pytest.raises(ValueError, match="face=-1"):
        Fan(face=-1)


# Real pictures


@pytest.mark.parametrize("name", ["hc18_fetal_head", "pocus_lung", "rus_abdomen"])
def test_real_fans_survive_the_round_trip(shared, name):
    root = shared / "data" / name
    with open(root / "index.csv", newline="", encoding="utf-8") as lines:
        files = [row["image"] for row in csv.DictReader(lines)]
    fans = 0
    for file in files[:: len(files) // 12][:12]:
        picture = Image.open(root / file).convert("L").crop((0, 0, 384, 256))
        picture = np.array(picture)
        geometry = detect_geometry(picture)
        if geometry[0] != 2:
            continue
        fans += 1
        sector, (height, width) = Sector(*map(float, geometry[1:])), picture.shape
        flat = flatten(jnp.asarray(picture[..., None]), sector, 512, 512)
        whole = Rectangle(0, 0, 511, 511)
        back = np.asarray(bend(flat, whole, sector, height, width))[..., 0]
        beyond = _beyond(sector, height, width)
        inside = beyond < -3
        assert np.corrcoef(back[inside], picture[inside])[0, 1] > 0.97, file
        assert not back[beyond > 0.6].any(), file
    assert fans >= 4
