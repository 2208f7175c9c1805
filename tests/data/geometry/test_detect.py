"""Detection of the scan area: known fans are recovered, real ones found, none are invented."""

import csv
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from ufm_jax.data.geometry.detect import detect_geometry, find_scan_area, foreground
from ufm_jax.data.geometry.scan_area import Kind, Rectangle, Sector
from ufm_jax.phantoms.generate import phantom
from ufm_jax.randomness import generator

HEIGHT, WIDTH = 192, 256
FAN = Sector(-30.0, 128.0, 45.0, 210.0, -0.5, 0.5)
BOX = Rectangle(10.0, 30.0, 180.0, 220.0)


def _picture(area, seed=0, shape=(HEIGHT, WIDTH), background=0):
    """Speckle inside of an area."""
    rng = generator(seed, "speckle")
    speckle = np.hypot(*ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, 0.7, 0.7)))
    inside = area.beyond(*np.indices(shape)) <= 0
    tissue = 15 + 90 * speckle / speckle.mean()
    return np.clip(np.where(inside, tissue, background), 0, 255).astype(np.uint8)


def _jpeg(picture, tmp_path, quality=75):
    Image.fromarray(picture).save(tmp_path / "picture.jpg", quality=quality)
    return np.asarray(Image.open(tmp_path / "picture.jpg"))


def _assert_close(found, truth, pixels=4.0, degrees=2.0):
    assert isinstance(found, Sector), found
    assert found.apex_row == pytest.approx(truth.apex_row, abs=2 * pixels)
    assert found.apex_column == pytest.approx(truth.apex_column, abs=pixels)
    assert found.apex_row + found.r_min == pytest.approx(truth.apex_row + truth.r_min, abs=pixels)
    assert found.apex_row + found.r_max == pytest.approx(truth.apex_row + truth.r_max, abs=pixels)
    angles = np.rad2deg([found.theta_min - truth.theta_min, found.theta_max - truth.theta_max])
    assert np.abs(angles).max() <= degrees


def _iou(area, truth, shape=(HEIGHT, WIDTH)):
    one, other = (a.beyond(*np.indices(shape)) <= 0 for a in (area, truth))
    return (one & other).sum() / (one | other).sum()


# Stored form


@pytest.mark.parametrize(("area", "kind"), [(FAN, Kind.SECTOR), (BOX, Kind.LINEAR)])
def test_stored_form_is_the_kind_and_the_numbers(area, kind):
    array = area.to_array()
    assert array.dtype == np.float32
    assert array.shape == (7,)
    assert array[0] == kind
    assert astuple(area) == tuple(array[1 : 1 + len(astuple(area))].tolist())


@pytest.mark.parametrize("bad", [np.zeros((9, 9)), np.zeros(9, np.uint8), np.zeros((0, 9), "u1")])
def test_other_arrays_than_pictures_are_refused(bad):
    with pytest.raises(ValueError, match="a picture is uint8"):
        detect_geometry(bad)


# Known fans and rectangles


@settings(max_examples=25)
@given(
    half=st.floats(0.3, 0.75),
    face=st.floats(0.15, 0.8),
    aside=st.floats(-8, 8),
    background=st.sampled_from([0, 0, 20]),
    seed=st.integers(0, 99),
)
def test_whole_fans_are_recovered(half, face, aside, background, seed):
    depth = min(160, 110 / ((1 + face) * np.sin(half)), 175 / (1 + face - face * np.cos(half)))
    r_min, r_max = face * depth, (1 + face) * depth
    fan = Sector(8 - r_min * np.cos(half), 128 + aside, r_min, r_max, -half, half)
    found = find_scan_area(_picture(fan, seed, background=background))
    _assert_close(found, fan)
    assert _iou(found, fan) > 0.95


@settings(max_examples=20)
@given(
    half=st.floats(0.35, 0.6),
    face=st.floats(0.3, 0.9),
    above=st.floats(0, 25),
    below=st.floats(0, 30),
    cut=st.floats(0, 0.15),
)
def test_fans_cut_by_the_picture_are_recovered(half, face, above, below, cut):
    r_max = WIDTH / 2 / np.sin(half) / (1 - cut)
    r_min = face / (1 + face) * r_max
    fan = Sector(-above - r_min * np.cos(half), WIDTH / 2 - 0.5, r_min, r_max, -half, half)
    height = round(min(fan.apex_row + r_max - below, 250))
    shape = (height, WIDTH)
    leaves = fan.apex_row + WIDTH / 2 / np.tan(half)
    assume(leaves > 0.35 * height)
    found = find_scan_area(_picture(fan, shape=shape))
    assert isinstance(found, Sector)
    assert _iou(found, fan, shape) > 0.95
    angles = np.rad2deg([found.theta_min - fan.theta_min, found.theta_max - fan.theta_max])
    assert np.abs(angles).max() <= 2


def test_shadows_do_not_move_a_fan():
    picture = _picture(FAN)
    r, theta = FAN.polar(*np.indices(picture.shape))
    picture[(theta > -0.3) & (theta < -0.1) & (r > 80)] = 0
    picture[(theta > 0.25) & (r > 150)] = 0
    _assert_close(find_scan_area(picture), FAN)


@pytest.mark.parametrize("turn", [False, True])
def test_a_dark_side_is_supplied_by_the_arcs(turn):
    picture = _picture(FAN)
    r, theta = FAN.polar(*np.indices(picture.shape))
    picture[theta > 0.2 + 0.12 * np.sin(r / 12)] = 0
    found = find_scan_area(np.ascontiguousarray(picture[:, ::-1]) if turn else picture)
    mirrored = replace(FAN, apex_column=WIDTH - 1 - FAN.apex_column)
    _assert_close(found, mirrored if turn else FAN)


def test_marks_boxes_and_bars_do_not_move_a_fan(tmp_path):
    picture = _picture(FAN)
    picture[20:170, 0:3] = np.linspace(255, 20, 150)[:, None].astype(np.uint8)
    picture[5:12, 200:240:3] = 255
    picture[150:, 190:] = 0
    picture[90:93, 100:150] = 255
    picture[60:180:10, 250:254] = 200
    _assert_close(find_scan_area(_jpeg(picture, tmp_path)), FAN)


def test_detection_scales_with_the_picture():
    large = Sector(-60.0, 256.0, 90.0, 420.0, -0.5, 0.5)
    _assert_close(find_scan_area(_picture(large, shape=(384, 512))), large, pixels=5)


@settings(max_examples=20)
@given(
    top=st.integers(0, 30),
    left=st.integers(0, 60),
    bottom=st.integers(130, 191),
    right=st.integers(180, 255),
    seed=st.integers(0, 99),
)
def test_rectangles_are_recovered(top, left, bottom, right, seed):
    found = find_scan_area(_picture(Rectangle(top, left, bottom, right), seed))
    assert isinstance(found, Rectangle)
    np.testing.assert_allclose(found.to_array()[1:5], [top, left, bottom, right], atol=2)


def test_a_cyst_does_not_matter_to_a_rectangle():
    picture = _picture(BOX)
    rows, columns = np.indices(picture.shape)
    picture[np.hypot(rows - 90, columns - 130) < 45] = 0
    np.testing.assert_allclose(find_scan_area(picture).to_array(), BOX.to_array(), atol=2)


@pytest.mark.parametrize("shape", [(192, 256), (60, 60), (8, 8), (1, 300)])
def test_pictures_without_a_scan_are_unknown(shape):
    assert not detect_geometry(np.zeros(shape, np.uint8)).any()
    dot = np.zeros(shape, np.uint8)
    dot[: shape[0] // 4, : shape[1] // 8] = 90
    assert not detect_geometry(dot).any()


def test_an_irregular_area_is_unknown():
    rng = generator(0, "blob")
    blob = ndimage.gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 25)
    picture = np.where(blob > 0, rng.integers(40, 200, blob.shape), 0).astype(np.uint8)
    assert find_scan_area(picture) is None


def test_a_second_panel_beside_a_fan_makes_it_unknown():
    picture = _picture(FAN)
    picture[5:60, 200:250] = _picture(BOX)[50:105, 100:150]
    assert find_scan_area(picture) is None


def test_a_steered_fan_is_not_taken_for_an_upright_one():
    assert find_scan_area(_picture(replace(FAN, theta_min=-0.2))) is None


def test_a_rectangle_with_a_valley_is_unknown():
    picture = _picture(BOX)
    picture[60:, 80:170] = 0
    assert find_scan_area(picture) is None


def test_a_fan_that_stands_on_its_head_is_no_fan():
    picture = _picture(FAN)[::-1]
    assert detect_geometry(np.ascontiguousarray(picture))[0] != Kind.SECTOR


def test_colour_counts_like_grey():
    picture = _picture(FAN)
    coloured = np.stack([picture, picture // 2, picture // 2], axis=2)
    np.testing.assert_array_equal(detect_geometry(coloured), detect_geometry(picture))


# Real pictures


def _sample(shared, name, count, notes=""):
    """A spread of a set's pictures, as uint8 arrays of at most 256 pixels a side."""
    root = shared / "data" / name
    with open(root / "index.csv", newline="", encoding="utf-8") as lines:
        files = [row["image"] for row in csv.DictReader(lines) if notes in row["notes"]]
    for file in files[:: max(1, len(files) // count)][:count]:
        image = Image.open(root / file).convert("L")
        factor = 256 / max(image.size)
        yield np.asarray(image.resize([round(side * factor) for side in image.size]))


REAL = {
    # set: notes, pictures, least share of fans, most share of fans, least share of rectangles
    "hc18_fetal_head": ("", 60, 0.50, 1.0, 0.0),
    "rus_abdomen": ("", 60, 0.85, 1.0, 0.0),
    "pocus_lung": ("probe=convex", 60, 0.60, 1.0, 0.0),
    "busi_breast": ("", 60, 0.0, 0.05, 0.70),
    "gb_biliary_atresia": ("", 100, 0.0, 0.0, 0.80),
}


@pytest.mark.parametrize("name", REAL)
def test_real_pictures_get_their_probe(shared, name):
    notes, count, least_fans, most_fans, least_rectangles = REAL[name]
    kinds = [int(detect_geometry(p)[0]) for p in _sample(shared, name, count, notes)]
    shares = np.bincount(kinds, minlength=3) / len(kinds)
    assert least_fans <= shares[Kind.SECTOR] <= most_fans, shares
    assert shares[Kind.LINEAR] >= least_rectangles, shares


def test_real_linear_pictures_are_never_fans(shared):
    kinds = [detect_geometry(p)[0] for p in _sample(shared, "pocus_lung", 57, "probe=linear")]
    assert Kind.SECTOR not in kinds
    assert kinds.count(Kind.LINEAR) >= 0.7 * len(kinds)


@pytest.mark.parametrize("name", ["hc18_fetal_head", "rus_abdomen", "pocus_lung"])
def test_real_fans_explain_what_is_lit(shared, name):
    overlaps = []
    for picture in _sample(shared, name, 40):
        fan = find_scan_area(picture)
        if isinstance(fan, Sector):
            lit = ndimage.binary_fill_holes(foreground(picture))
            inside = fan.beyond(*np.indices(lit.shape)) <= 0
            overlaps.append((lit & inside).sum() / (lit | inside).sum())
    assert np.median(overlaps) > 0.9
    assert np.quantile(overlaps, 0.1) > 0.5


# Simulated pictures


def test_phantoms_get_their_probe():
    wrong, found = [], 0
    for site in range(8):
        for index in range(3):
            row = phantom(1, site, index, 160)
            seen = detect_geometry(row.image[: row.extent[0], : row.extent[1]])
            found += seen[0] == row.geometry[0]
            if seen[0] == Kind.SECTOR != row.geometry[0]:
                wrong.append((site, index))
    assert not wrong
    assert found >= 12
