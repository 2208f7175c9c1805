"""Phantoms: the physics of the speckle, the truth of masks and geometry, and determinism."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from ufm_jax.phantoms.acoustics import (
    PointSpread,
    envelope,
    grey_map,
    log_compress,
    point_spread,
    transmission,
)
from ufm_jax.phantoms.generate import display, phantom, simulate
from ufm_jax.phantoms.lesion import LABEL_NAMES, benign_solid, cyst, malignant
from ufm_jax.phantoms.noise import noise
from ufm_jax.phantoms.probe import BEAMS, SAMPLES, Probe, beam_grid
from ufm_jax.phantoms.scenes import EXAMS
from ufm_jax.phantoms.shapes import Blob, distance
from ufm_jax.phantoms.site import site_sizes, site_style
from ufm_jax.phantoms.tissue import uniform
from ufm_jax.randomness import generator

SEED = 5
LINEAR = Probe("linear", 10.0, 40.0, 42.0)
CONVEX = EXAMS["liver"].probe


def _rng(purpose: str) -> np.random.Generator:
    return generator(SEED, purpose)


def _homogeneous(spread: PointSpread, purpose: str, looks: int = 1) -> np.ndarray:
    ones = np.ones((SAMPLES, BEAMS), np.float32)
    return envelope(ones, 0 * ones, spread, _rng(purpose), looks)


def _spread(axial: float = 1.0, lateral: float = 1.2) -> PointSpread:
    return PointSpread(axial, np.full((SAMPLES, 1), lateral, np.float32))


def _style(exam: str, seed: int = SEED):
    """The first site that does an examination, doing nothing else, without marks."""
    for site in range(50):
        style = replace(site_style(seed, site), marks=(), callipers=0.0)
        for exam_style in style.exams:
            if exam_style.name == exam:
                return replace(style, exams=(replace(exam_style, weight=1.0),))
    raise AssertionError(f"no site of 50 does {exam}")


# Physics


@pytest.mark.parametrize(("axial", "lateral"), [(0.8, 0.8), (1.5, 3.0)])
def test_envelope_of_homogeneous_tissue_is_rayleigh(axial, lateral):
    sigma = np.linspace(lateral, 1.3 * lateral, SAMPLES, dtype=np.float32)[:, None]
    field = _homogeneous(PointSpread(axial, sigma, 0.02), f"rayleigh {axial}")
    assert field.mean() / field.std() == pytest.approx(1.913, abs=0.08)
    assert np.mean(field**2) == pytest.approx(1.0, abs=0.05)
    apart = field[:: int(6 * axial), :: int(6 * 1.3 * lateral)].ravel()
    assert stats.kstest(apart, stats.rayleigh(scale=np.sqrt(0.5)).cdf).pvalue > 0.01


def test_compounding_n_looks_multiplies_the_speckle_ratio_by_root_n():
    field = _homogeneous(_spread(), "looks", looks=4)
    assert field.mean() / field.std() == pytest.approx(2 * 1.913, rel=0.06)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_speckle_correlates_as_the_point_spread_function_predicts(sigma):
    # A Gaussian of width s filters white noise to a correlation exp(-l^2 / 4 s^2); that of the
    # intensity is its square.
    intensity = _homogeneous(_spread(1.0, sigma), "correlation") ** 2
    intensity = intensity - intensity.mean()
    lag = int(sigma)
    found = np.mean(intensity[:, lag:] * intensity[:, :-lag]) / np.mean(intensity**2)
    assert found == pytest.approx(np.exp(-(lag**2) / (2 * sigma**2)), abs=0.08)


@pytest.mark.parametrize("exam", ["breast", "liver", "heart"])
def test_lateral_resolution_worsens_from_the_focus_down(exam):
    grid = beam_grid(EXAMS[exam].probe)
    spread = point_spread(grid.probe, grid, 1.2, 1.0, 0.0)
    width = (spread.lateral * grid.pitch)[:, 0]
    focus = int(0.45 * SAMPLES)
    assert np.all(np.diff(width[focus:]) >= 0)
    assert width[-1] > 1.2 * width[focus]


def test_wide_interface_alone_shows_its_own_amplitude():
    ones = np.ones((SAMPLES, BEAMS), np.float32)
    np.testing.assert_allclose(
        envelope(0 * ones, 3 * ones, _spread(), _rng("mirror")), 3.0, rtol=1e-5
    )


def test_transmission_loses_the_stated_decibels_per_centimetre():
    grid = beam_grid(LINEAR)
    left = transmission(np.full((SAMPLES, BEAMS), 2.0, np.float32), grid.step)
    # 2 dB/cm over 4 cm.
    assert 20 * np.log10(left[-1, 0]) == pytest.approx(-8.0, abs=0.05)
    assert left[0, 0] == pytest.approx(1.0, abs=1e-6)


def test_log_compression_is_linear_in_decibels_between_black_and_white():
    # White at +20 dB, 60 dB of range: 0 dB is 2/3, -20 dB is 1/3.
    amplitude = np.array([10.0, 100.0, 1.0, 0.1, 0.01, 1e-9, 0.0])
    expected = [1.0, 1.0, 2 / 3, 1 / 3, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(log_compress(amplitude, 60.0, 20.0), expected, atol=1e-6)
    np.testing.assert_allclose(log_compress(np.ones(1), 60.0, 20.0, gain=6.0), [2 / 3 + 0.1])


@given(st.floats(0.5, 2.0), st.floats(0.0, 1.0))
def test_grey_map_increases_from_black_to_white(gamma, contrast):
    curve = grey_map(np.linspace(0, 1, 50), gamma, contrast)
    assert curve[0] == 0
    assert curve[-1] == pytest.approx(1)
    assert np.all(np.diff(curve) > 0)


def test_noise_has_unit_variance_and_one_value_at_one_point():
    u, v = np.linspace(0, 90, 400)[None], np.linspace(0, 80, 300)[:, None]
    separable = noise(_rng("noise"), u, v)
    full = noise(_rng("noise"), *np.broadcast_arrays(u, v))
    assert separable.std() == pytest.approx(1.0, abs=0.06)
    # Bilinear at quarter units: at most |f''| / 128 an axis, and |f''| is a few at 1 unit.
    assert np.abs(separable - full).max() < 0.15
    assert np.abs(separable - full).mean() < 0.03


@given(st.floats(-3.0, 3.0), st.floats(2.0, 9.0), st.floats(2.0, 9.0))
@settings(max_examples=20)
def test_distance_vanishes_on_the_ellipse_and_is_negative_inside(angle, a, b):
    grid = beam_grid(LINEAR)
    d = distance(Blob(2.0, 18.0, a, b, angle), grid)
    dx, dz = grid.x - 2.0, grid.z - 18.0
    u, w = dx * np.cos(angle) + dz * np.sin(angle), dz * np.cos(angle) - dx * np.sin(angle)
    level = (u / a) ** 2 + (w / b) ** 2
    assert np.all(d[level < 0.97] < 0)
    assert np.all(d[level > 1.03] > 0)


# What readers look for


def _around(lesion, purpose):
    """Mean levels: in a lesion, beside it, behind it, and behind beside it; no mottle, no noise."""
    grid = beam_grid(LINEAR)
    site = Blob(0.0, 15.0, 5.0, 4.0)
    tissue = lesion(uniform(grid, 0.0), grid, _rng(purpose), site)
    style = replace(_style("breast"), tgc=(0.0, 0.0), noise=(-80.0, -80.0), gain=-10.0)
    level = display(tissue, grid, style, _rng(purpose + " display"))
    at_lesion = np.abs(grid.x) < 2.0
    beside = (np.abs(grid.x) > 12.0) & (np.abs(grid.x) < 18.0)
    rows, behind = np.abs(grid.z - 15.0) < 2.0, (grid.z > 24.0) & (grid.z < 34.0)
    inside = level[tissue.lesion > 0.5].mean()
    return (
        inside,
        level[rows & beside].mean(),
        level[behind & at_lesion].mean(),
        level[behind & beside].mean(),
    )


def test_cyst_is_black_and_brightens_what_lies_behind():
    inside, beside, behind, reference = _around(cyst, "cyst")
    assert inside < 0.4 * beside
    assert behind > reference + 0.04


def test_malignant_lesion_is_dark_and_casts_a_shadow():
    inside, beside, behind, reference = _around(malignant, "malignant")
    assert inside < 0.75 * beside
    assert behind < reference - 0.04


def test_malignant_outline_is_rougher_than_a_benign_one():
    grid = beam_grid(LINEAR)

    def roughness(lesion, k):
        site = Blob(0.0, 18.0, 5.0, 4.5)
        inside = lesion(uniform(grid, 0.0), grid, _rng(f"rough {k}"), site).lesion > 0.5
        edges = np.abs(np.diff(inside, axis=0)).sum() + np.abs(np.diff(inside, axis=1)).sum()
        return edges / np.sqrt(inside.sum())

    benign = [roughness(benign_solid, k) for k in range(10)]
    assert np.mean([roughness(malignant, k) for k in range(10)]) > 1.15 * np.mean(benign)


@pytest.mark.parametrize("exam", ["breast", "liver"])
def test_mask_covers_the_dark_of_a_malignant_lesion(exam):
    style = replace(_style(exam), class_weights=(0.0, 0.0, 1.0))
    darker = []
    for index in range(8):
        row = simulate(style, _rng(f"mask {exam} {index}"), 128)
        inside = row.mask.astype(bool)
        ring = ndimage.binary_dilation(inside, iterations=8)
        ring &= ~ndimage.binary_dilation(inside, iterations=2)
        ring[int(np.flatnonzero(inside.any(axis=1)).mean()) :] = False
        darker.append(row.image[inside].mean() < row.image[ring].mean())
    assert np.mean(darker) >= 0.75, darker


# Rows


@pytest.mark.parametrize("size", [64, 80, 128, 224, 256])
def test_rows_keep_the_contract_at_every_size(size):
    for site in range(4):
        row = phantom(SEED, site, 0, size)
        h, w = row.extent
        assert row.image.shape == row.mask.shape == (size, size)
        assert row.image.dtype == row.mask.dtype == np.uint8
        assert row.geometry.dtype == np.float32
        assert row.geometry.shape == (7,)
        assert max(h, w) == size
        assert not row.image[h:].any()
        assert not row.image[:, w:].any()
        assert set(np.unique(row.mask)) <= {0, 1}
        assert row.image.max() > 128


@pytest.mark.parametrize("exam", list(EXAMS))
def test_only_the_scan_area_is_lit(exam):
    row = simulate(_style(exam), _rng(f"geometry {exam}"), 160)
    kind, *numbers = row.geometry.tolist()
    rows, cols = np.mgrid[: row.extent[0], : row.extent[1]]
    if kind == 1:
        top, left, bottom, right = numbers[:4]
        outside = np.maximum.reduce([top - rows, rows - bottom, left - cols, cols - right])
    else:
        apex_row, apex_col, near, far, low, high = numbers
        r = np.hypot(rows - apex_row, cols - apex_col)
        theta = np.arctan2(cols - apex_col, rows - apex_row)
        sides = np.maximum(r * (theta - high), r * (low - theta))
        outside = np.maximum.reduce([near - r, r - far, sides])
    picture = row.image[: row.extent[0], : row.extent[1]]
    assert kind == (1 if EXAMS[exam].probe.kind == "linear" else 2)
    assert not picture[outside > 0.01].any()
    assert np.mean(picture[outside <= 0] > 0) > 0.3
    # The face of the probe is lit along its whole middle: the geometry is not merely too large.
    edge = (np.abs(outside) < 2) & (outside <= 0) & (rows < 0.15 * row.extent[0])
    assert picture[edge].mean() > 20


@pytest.mark.parametrize("exam", list(EXAMS))
def test_lesion_is_marked_exactly_when_the_label_says_so(exam):
    style = _style(exam)
    seen = set()
    for index in range(12):
        row = simulate(style, _rng(f"labels {exam} {index}"), 96)
        seen.add(row.label)
        assert row.label in EXAMS[exam].labels
        assert bool(row.mask.any()) == (row.label > 0), (exam, index)
        assert row.mask.mean() < 0.3
    assert len(seen) > 1


def test_a_federation_shows_every_class():
    labels = {phantom(SEED, site, i, 64).label for site in range(6) for i in range(4)}
    assert labels == set(range(len(LABEL_NAMES)))


def test_anatomy_does_not_depend_on_the_size():
    for site in range(6):
        small, large = phantom(SEED, site, 1, 64), phantom(SEED, site, 1, 128)
        assert small.label == large.label
        assert small.mask.mean() == pytest.approx(large.mask.mean(), abs=0.01)
        halved = large.image.reshape(64, 2, 64, 2).mean((1, 3))
        assert np.corrcoef(halved.ravel(), small.image.ravel())[0, 1] > 0.8


# Determinism


def _digest(rows) -> str:
    parts = [row.image.tobytes() + row.mask.tobytes() + row.geometry.tobytes() for row in rows]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_image_depends_on_its_own_numbers_only():
    keys = [(0, 3), (2, 0), (0, 1), (1, 7)]
    forward = [phantom(SEED, site, index, 64) for site, index in keys]
    backward = [phantom(SEED, site, index, 64) for site, index in reversed(keys)][::-1]
    assert _digest(forward) == _digest(backward)
    assert len({_digest([row]) for row in forward}) == len(keys)
    assert _digest([phantom(SEED + 1, 0, 3, 64)]) != _digest(forward[:1])


def test_image_is_the_same_in_another_process():
    code = (
        "import hashlib; from ufm_jax.phantoms.generate import phantom\n"
        f"rows = [phantom({SEED}, site, 2, 64) for site in (3, 1)]\n"
        "print(hashlib.sha256(b''.join(r.image.tobytes() + r.mask.tobytes()"
        " + r.geometry.tobytes() for r in rows)).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == _digest([phantom(SEED, site, 2, 64) for site in (3, 1)])


@pytest.mark.parametrize(("site", "index", "size"), [(-1, 0, 64), (0, -1, 64), (0, 0, 31)])
def test_impossible_numbers_are_refused_by_name(site, index, size):
    with pytest.raises(ValueError, match=r"site|index|size"):
        phantom(SEED, site, index, size)


# Sites


def test_sites_look_more_different_than_the_images_of_one_site():
    def features(row):
        picture = row.image[: row.extent[0], : row.extent[1]].astype(float)
        lit = picture[picture > 0]
        return lit.mean(), lit.std(), np.mean(picture > 0), row.extent[0] / row.extent[1]

    found = np.array([[features(phantom(SEED, k, i, 64)) for i in range(5)] for k in range(10)])
    between = found.mean(axis=1).var(axis=0, ddof=1)
    within = found.var(axis=1, ddof=1).mean(axis=0)
    # Without a difference of sites the expected ratio is 1/5.
    assert np.all(between / within > 0.6), between / within
    assert np.median(between / within) > 1.0


def test_every_deck_of_sites_covers_all_main_examinations():
    main = [site_style(SEED, site).exams[0].name for site in range(2 * len(EXAMS))]
    assert set(main[: len(EXAMS)]) == set(main[len(EXAMS) :]) == set(EXAMS)


def test_style_is_a_function_of_seed_and_site():
    assert site_style(SEED, 3) == site_style(SEED, 3)
    assert site_style(SEED, 3) != site_style(SEED, 4)
    assert site_style(SEED, 3) != site_style(SEED + 1, 3)


@given(st.integers(0, 2**31), st.integers(1, 200), st.integers(50, 5000), st.floats(0.0, 1.5))
@settings(max_examples=50)
def test_site_sizes_have_the_mean_and_no_site_is_empty(seed, num_sites, mean_size, sigma):
    sizes = site_sizes(seed, num_sites, mean_size, sigma)
    assert sizes.dtype == np.int64
    assert sizes.shape == (num_sites,)
    assert sizes.min() >= 1
    assert sizes.mean() == pytest.approx(mean_size, rel=0.02, abs=1.0)
    np.testing.assert_array_equal(sizes, site_sizes(seed, num_sites, mean_size, sigma))
    if sigma == 0:
        assert set(sizes) == {mean_size}


def test_site_sizes_spread_as_sigma_says():
    spreads = [np.log(site_sizes(SEED, 2000, 1e6, s)).std() for s in (0.5, 1.0, 1.5)]
    np.testing.assert_allclose(spreads, (0.5, 1.0, 1.5), rtol=0.06)
    assert all(a < b for a, b in pairwise(spreads))


@pytest.mark.parametrize("bad", [(0, 10, 1), (4, 0.5, 1), (4, 10, -1)])
def test_impossible_site_sizes_are_refused(bad):
    with pytest.raises(ValueError, match="sigma"):
        site_sizes(SEED, *bad)
