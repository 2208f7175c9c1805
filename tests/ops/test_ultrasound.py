"""Ultrasound augmentation: what each knob does to grey levels, and what none may do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.ops.ultrasound import (
    DYNAMIC_RANGE_DB,
    UltrasoundStrengths,
    add_speckle,
    change_dynamic_range,
    depth_gain,
    gain,
    grey_map,
    lateral_blur,
    ultrasound_augment,
)

_add_speckle = jax.jit(add_speckle)
_change_dynamic_range = jax.jit(change_dynamic_range)
_depth_gain = jax.jit(depth_gain)
_gain = jax.jit(gain)
_grey_map = jax.jit(grey_map)
_lateral_blur = jax.jit(lateral_blur)
STRONG = UltrasoundStrengths(12.0, 9.0, 0.5, 0.7, 5.6, 2.0, probability=1.0)
NONE = UltrasoundStrengths(probability=0.0)
_augment = jax.jit(ultrasound_augment, static_argnums=2)
LEVELS = jnp.arange(256.0).reshape(16, 16, 1)


def _scan(channels=1):
    """A fan of texture on black."""
    rows, columns = np.mgrid[:48, :48]
    fan = (abs(columns - 24) < 6 + 0.4 * rows) & (rows > 3)
    texture = np.random.default_rng(0).integers(20, 230, (48, 48, channels))
    return (texture * fan[..., None]).astype(np.uint8), fan


@settings(max_examples=25)
@given(st.integers(0, 2**31 - 1))
def test_levels_stay_in_range_and_black_stays_black(seed):
    image, fan = _scan()
    result = np.asarray(_augment(jax.random.key(seed), image, STRONG))[..., 0]
    assert result.shape == (48, 48)
    assert np.isfinite(result).all()
    assert 0 <= result.min() <= result.max() <= 255
    reach = np.pad(fan, 4)
    near = np.max([reach[i : i + 48, j : j + 48] for i in range(9) for j in range(9)], axis=0)
    assert result[~near].max() == 0


def test_a_probability_of_zero_changes_nothing():
    image, _ = _scan(3)
    np.testing.assert_allclose(_augment(jax.random.key(0), image, NONE), image, atol=1e-3)


def test_each_knob_is_turned_as_often_as_asked_and_the_key_decides():
    strengths = UltrasoundStrengths(tgc=0, dynamic_range=0, gamma=0, speckle=0, blur=0)
    keys = jax.random.split(jax.random.key(0), 1000)
    image = jnp.full((4, 4, 1), 100.0)
    run = jax.jit(jax.vmap(lambda key: ultrasound_augment(key, image, strengths)))
    shifts = np.asarray(run(keys))[:, 0, 0, 0] - 100
    assert (shifts != 0).mean() == pytest.approx(0.5, abs=0.05)
    most = strengths.gain * 255 / DYNAMIC_RANGE_DB
    assert -most <= shifts.min() < -0.9 * most
    assert 0.9 * most < shifts.max() <= most
    np.testing.assert_array_equal(run(keys[:5]), run(keys)[:5])


def test_gain_is_a_number_of_levels_on_echoes():
    result = np.asarray(_gain(LEVELS, 6.0)).ravel()
    levels = np.arange(256.0)
    np.testing.assert_allclose(result[16:], np.minimum(levels[16:] + 25.5, 255), atol=1e-3)
    assert result[0] == 0
    for decibels in (-12.0, 12.0):
        assert (np.diff(np.asarray(_gain(LEVELS, decibels)).ravel()) >= 0).all()


def test_sliders_act_at_their_depths():
    sliders = jnp.zeros(8).at[0].set(6.0).at[7].set(-6.0)
    change = np.asarray(_depth_gain(jnp.full((71, 3, 1), 100.0), sliders))[:, :, 0] - 100
    np.testing.assert_allclose(change[0], 25.5, atol=1e-3)
    np.testing.assert_allclose(change[5], 12.75, atol=1e-3)
    np.testing.assert_allclose(change[10:61], 0, atol=1e-3)
    np.testing.assert_allclose(change[70], -25.5, atol=1e-3)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_dynamic_range_keeps_white_and_spans_so_many_decibels(factor):
    result = np.asarray(_change_dynamic_range(LEVELS, factor)).ravel()
    expected = np.clip(255 - (255 - np.arange(16.0, 256)) / factor, 0, 255)
    np.testing.assert_allclose(result[16:], expected, atol=1e-3)
    assert result[0] == 0
    assert (np.diff(result) >= 0).all()


def test_a_grey_map_is_a_power_of_the_level():
    result = np.asarray(_grey_map(LEVELS, 2.0)).ravel()
    np.testing.assert_allclose(result, np.arange(256.0) ** 2 / 255, atol=1e-2)


def test_speckle_has_the_asked_deviation_and_the_grain_of_a_resolution_cell():
    image = jnp.full((200, 200, 3), 120.0)
    noise = np.asarray(_add_speckle(jax.random.key(0), image, 4.0)) - 120
    np.testing.assert_array_equal(noise[..., 0], noise[..., 2])
    assert noise.std() == pytest.approx(4.0 * 255 / DYNAMIC_RANGE_DB, rel=0.03)
    grain = noise[..., 0] / noise.std()
    down, across = (grain[1:] * grain[:-1]).mean(), (grain[:, 1:] * grain[:, :-1]).mean()
    assert 0.5 < down < across < 0.95
    assert abs((grain[:, 8:] * grain[:, :-8]).mean()) < 0.05


def test_blur_is_sideways_of_its_width_and_keeps_the_sum():
    point = jnp.zeros((21, 21, 1)).at[10, 10].set(255.0)
    spread = np.asarray(_lateral_blur(point, 1.2))[..., 0]
    assert spread.sum() == pytest.approx(255, rel=1e-4)
    offsets = np.arange(-10, 11)
    across = (spread.sum(axis=0) * offsets**2).sum() / 255
    down = (spread.sum(axis=1) * offsets**2).sum() / 255
    assert np.sqrt(across) == pytest.approx(1.2, rel=0.02)
    assert np.sqrt(down) < 0.45
    np.testing.assert_allclose(_lateral_blur(point, 0.0), point, atol=1e-4)


def test_impossible_strengths_are_named():
    with pytest.raises(ValueError, match="gain=-1"):
        UltrasoundStrengths(gain=-1.0)
    with pytest.raises(ValueError, match="dynamic_range=1"):
        UltrasoundStrengths(dynamic_range=1.0)
    with pytest.raises(ValueError, match="speckle=nan"):
        UltrasoundStrengths(speckle=float("nan"))
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        ultrasound_augment(jax.random.key(0), jnp.zeros((8, 8)), STRONG)
