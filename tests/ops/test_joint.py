"""Joint augmentation: masks stay aligned with their pictures and gain no class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.ops.crop import crop, resize
from ufm_jax.ops.joint import (
    Move,
    Moves,
    crop_mask,
    draw_move,
    move_image,
    move_jointly,
    move_mask,
)
from ufm_jax.ops.segmentation_losses import IGNORED

SIDE, SIZE = 64, 48
EVERYTHING = Moves(
    area=(0.5, 1.0), degrees=30.0, zoom=(0.8, 1.25), mirror=0.5, upend=0.5, quarter_turns=True
)
STILL = Moves(area=(0.9, 1.0), degrees=0.0, zoom=(1.0, 1.0), mirror=0.0)
EXTENT = np.array([52, 60], np.int32)


def _scene(levels=(0, 255)):
    """An asymmetric blob in a picture that fills part of its canvas, and its mask."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    blob = ((rows - 22) / 13) ** 2 + ((columns - 34) / 9) ** 2 < 1
    blob |= (abs(rows - 38) < 7) & (abs(columns - 18) < 8)
    inside = (rows < EXTENT[0]) & (columns < EXTENT[1])
    image = np.where(blob, levels[1], levels[0])[..., None].astype(np.uint8)
    return image * inside[..., None], np.where(inside, blob, IGNORED).astype(np.uint8)


def _jointly(moves):
    return jax.jit(
        lambda key, image, mask: move_jointly(key, image, mask, jnp.array(EXTENT), moves, SIZE)
    )


_everything = _jointly(EVERYTHING)
_crop, _crop_mask = jax.jit(crop, static_argnums=2), jax.jit(crop_mask, static_argnums=2)
_move_image = jax.jit(move_image, static_argnums=(3, 4))
_move_mask = jax.jit(move_mask, static_argnums=(3, 4))


def _border(mask):
    """Pixels with a neighbour, among the 8, of another value."""
    padded = np.pad(mask, 1, mode="edge")
    shifted = [padded[i : i + SIZE, j : j + SIZE] for i in range(3) for j in range(3)]
    return np.max(shifted, axis=0) != np.min(shifted, axis=0)


@pytest.mark.parametrize("extent", [(30, 64), (64, 30), (64, 64), (1, 9)])
def test_the_shape_that_tests_see_is_among_those_trained_on(extent):
    """Tests squeeze whole pictures into squares: so does training, where boxes may be whole."""
    moves = Moves(area=(1.0, 1.0), ratio=(1.0, 1.0))
    box = draw_move(jax.random.key(0), jnp.array(extent), moves).box
    np.testing.assert_array_equal(box, [0, 0, *extent])


@settings(max_examples=40)
@given(st.integers(0, 2**31 - 1))
def test_a_mask_that_is_its_pictures_threshold_stays_it_up_to_the_border(seed):
    image, mask = (np.asarray(a) for a in _everything(jax.random.key(seed), *_scene()))
    counts = (mask != IGNORED) & ~_border(mask)
    assert counts.mean() > 0.4
    np.testing.assert_array_equal((image[..., 0] > 127.5)[counts], mask[counts] == 1)


def test_the_alignment_test_would_notice_one_pixel():
    shifted = 0
    for seed in range(10):
        image, mask = (np.asarray(a) for a in _everything(jax.random.key(seed), *_scene()))
        moved = np.roll(mask, 3, axis=1)
        counts = (moved != IGNORED) & ~_border(moved)
        shifted += ((image[..., 0] > 127.5)[counts] != (moved[counts] == 1)).sum()
    assert shifted > 100


@settings(max_examples=25)
@given(st.integers(0, 2**31 - 1), st.sets(st.integers(0, 254), min_size=2, max_size=5))
def test_no_class_appears_that_was_not_there(seed, classes):
    rng = np.random.default_rng(seed)
    image, _ = _scene()
    mask = rng.choice(sorted(classes), (SIDE, SIDE)).astype(np.uint8)
    moved = _everything(jax.random.key(seed), image, mask)[1]
    assert moved.dtype == np.uint8
    assert set(np.unique(moved)) <= classes | {IGNORED}


def test_what_lies_beyond_the_picture_is_black_and_ignored_and_has_no_influence():
    image, mask = _scene(levels=(100, 200))
    beyond = np.ones((SIDE, SIDE), bool)
    beyond[: EXTENT[0], : EXTENT[1]] = False
    dirty_image = np.where(beyond[..., None], 255, image)
    dirty_mask = np.where(beyond, 7, mask)
    for seed in range(10):
        key = jax.random.key(seed)
        clean, dirty = _everything(key, image, mask), _everything(key, dirty_image, dirty_mask)
        jax.tree.map(np.testing.assert_array_equal, clean, dirty)
        picture, moved = (np.asarray(a) for a in clean)
        outside = (moved == IGNORED) & ~_border(moved)
        assert picture[..., 0][outside].max(initial=0) < 60
        assert picture[..., 0][(moved != IGNORED) & ~_border(moved)].min() > 40


def test_a_move_that_moves_nothing_is_the_plain_crop_of_both():
    image, mask = _scene()
    picture, moved = _jointly(STILL)(jax.random.key(0), image, mask)
    box = draw_move(jax.random.key(0), jnp.array(EXTENT), STILL).box
    np.testing.assert_array_equal(moved, _crop_mask(mask, box, SIZE))
    np.testing.assert_array_equal(picture, _crop(image, box, SIZE))


def test_a_resized_mask_is_aligned_with_its_resized_picture():
    image, mask = _scene()
    picture = np.asarray(jax.jit(resize, static_argnums=2)(image, EXTENT, SIZE))
    resized = np.asarray(_crop_mask(mask, jnp.array([0, 0, *EXTENT]), SIZE))
    counts = ~_border(resized)
    assert set(np.unique(resized)) == {0, 1}
    np.testing.assert_array_equal(picture[..., 0][counts] > 127.5, resized[counts] == 1)


@pytest.mark.parametrize(("size", "expected"), [(3, [1, 4, 7]), (2, [2, 6]), (18, None)])
def test_a_cropped_mask_takes_the_pixel_at_each_centre(size, expected):
    mask = jnp.arange(12)[:, None] * jnp.ones((1, 12), int)
    rows = np.asarray(_crop_mask(mask, jnp.array([0, 0, 9, 9]), size))[:, 0]
    np.testing.assert_array_equal(rows, expected or np.repeat(np.arange(9), 2))


def _fixed(degrees=0.0, zoom=1.0, mirror=False, upend=False, turns=0):
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    back = np.array([[cos, sin], [-sin, cos]], np.float32) / zoom
    return Move(jnp.array([0, 0, SIZE, SIZE]), jnp.array(back), mirror, upend, turns)


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (_fixed(mirror=True), lambda a: a[:, ::-1]),
        (_fixed(upend=True), lambda a: a[::-1]),
        (_fixed(turns=1), np.rot90),
        (_fixed(turns=3), lambda a: np.rot90(a, 3)),
        (_fixed(degrees=90), np.rot90),
        (_fixed(degrees=-90), lambda a: np.rot90(a, 3)),
        (_fixed(zoom=2.0), lambda a: np.repeat(np.repeat(a[12:36, 12:36], 2, 0), 2, 1)),
    ],
)
def test_known_moves_of_a_square_picture(move, expected):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 9, (SIZE, SIZE)).astype(np.uint8)
    extent = jnp.array([SIZE, SIZE])
    moved = np.asarray(_move_mask(mask, extent, move, EVERYTHING, SIZE))
    np.testing.assert_array_equal(moved, expected(mask))
    if np.linalg.det(move.back) == pytest.approx(1):
        image = 25.0 * mask[..., None]
        picture = np.asarray(_move_image(image, extent, move, EVERYTHING, SIZE))[..., 0]
        np.testing.assert_allclose(picture, 25.0 * moved, atol=0.1)


def test_draws_cover_their_ranges_and_depend_on_the_key_alone():
    keys = jax.random.split(jax.random.key(0), 2000)
    extent = jnp.array(EXTENT)
    draws = jax.jit(jax.vmap(lambda key: draw_move(key, extent, EVERYTHING)))(keys)
    angle = np.rad2deg(np.arctan2(draws.back[:, 0, 1], draws.back[:, 0, 0]))
    zoom = 1 / np.sqrt(np.linalg.det(draws.back))
    assert -30 <= angle.min() < -28
    assert 28 < angle.max() <= 30
    assert zoom.min() == pytest.approx(0.8, abs=0.01)
    assert zoom.max() == pytest.approx(1.25, abs=0.01)
    assert np.mean(draws.mirror) == pytest.approx(0.5, abs=0.04)
    np.testing.assert_allclose(np.bincount(draws.turns) / 2000, 0.25, atol=0.04)
    assert np.corrcoef(draws.mirror, draws.upend)[0, 1] == pytest.approx(0, abs=0.07)


def test_impossible_moves_are_named():
    with pytest.raises(ValueError, match="mirror=2"):
        Moves(mirror=2)
    with pytest.raises(ValueError, match="degrees=-1"):
        Moves(degrees=-1)
    with pytest.raises(ValueError, match="zoom="):
        Moves(zoom=(1.2, 0.8))
    image, mask = _scene()
    with pytest.raises(ValueError, match="differ in height"):
        move_jointly(jax.random.key(0), image, mask[:9], jnp.array(EXTENT), STILL, SIZE)
    with pytest.raises(ValueError, match="size=0"):
        crop_mask(jnp.asarray(mask), jnp.array([0, 0, 4, 4]), 0)
    with pytest.raises(ValueError, match=r"\(64, 64, 1\)"):
        crop_mask(jnp.asarray(image), jnp.array([0, 0, 4, 4]), 4)
