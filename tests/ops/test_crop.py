"""Crops: parity with PIL's resampling, torchvision's boxes, and flips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ufm_jax.ops.crop import (
    crop,
    random_box,
    random_flip,
    random_resized_crop,
    resample_matrix,
    resize,
)

SIDE = 40


def _picture(channels=1, seed=0):
    """Smooth and sharp content, so that overshoot and aliasing would show."""
    image = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, channels), np.uint8)
    image[:, SIDE // 2 :] = 255 * (np.indices((SIDE, SIDE // 2))[0] % 8 < 4)[..., None]
    return image


def _by_pil(image, box, size):
    """PIL's crop and resize, in two calls: which pass it takes first depends on its version."""
    top, left, height, width = (int(x) for x in box)
    planes = [
        Image.fromarray(image[..., channel])
        .crop((left, top, left + width, top + height))
        .resize((size, height), Image.Resampling.BICUBIC)
        .resize((size, size), Image.Resampling.BICUBIC)
        for channel in range(image.shape[-1])
    ]
    return np.stack([np.asarray(plane, np.float32) for plane in planes], axis=-1)


BOXES = st.tuples(st.integers(0, SIDE - 1), st.integers(1, SIDE)).map(
    lambda pair: (min(pair[0], SIDE - pair[1]), pair[1])
)
_crop = jax.jit(crop, static_argnums=2)
_matrix = jax.jit(resample_matrix, static_argnums=(2, 3))
_random_boxes = jax.jit(jax.vmap(random_box, in_axes=(0, None, None, None)), static_argnums=(2, 3))


@settings(max_examples=40)
@given(BOXES, BOXES, st.sampled_from([7, 16, 64]))
def test_crop_equals_pils_of_the_cut_out_box(rows, columns, size):
    image = _picture()
    box = (rows[0], columns[0], rows[1], columns[1])
    # PIL rounds to whole levels between its two passes, and after.
    difference = np.abs(_crop(jnp.array(image), jnp.array(box), size) - _by_pil(image, box, size))
    assert difference.max() <= 2
    assert difference.mean() <= 0.5


def test_resize_takes_the_whole_valid_part():
    image = _picture(3)
    result = jax.jit(resize, static_argnums=2)(image, np.array([25, 33]), 16)
    np.testing.assert_allclose(result, _by_pil(image, (0, 0, 25, 33), 16), atol=2)


def test_pixels_outside_the_box_have_no_influence():
    image = jnp.array(_picture(), jnp.float32)
    box = jnp.array([5, 8, 20, 17])
    noise = jnp.full_like(image, 1e6).at[5:25, 8:25].set(image[5:25, 8:25])
    np.testing.assert_array_equal(_crop(image, box, 16), _crop(noise, box, 16))


def test_crop_at_its_own_size_is_the_box_itself():
    image = jnp.array(_picture(), jnp.float32)
    result = _crop(image, jnp.array([3, 4, 16, 16]), 16)
    np.testing.assert_allclose(result, image[3:19, 4:20], atol=1e-3)


@settings(max_examples=30)
@given(BOXES, st.sampled_from([1, 7, 64]))
def test_resampling_weights_sum_to_one_within_the_interval(interval, out_size):
    start, length = interval
    matrix = np.asarray(_matrix(start, length, out_size, SIDE))
    assert matrix.shape == (out_size, SIDE)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
    assert not matrix[:, :start].any()
    assert not matrix[:, start + length :].any()
    np.testing.assert_allclose(  # mirrored intervals have mirrored weights
        np.asarray(_matrix(SIDE - start - length, length, out_size, SIDE))[::-1, ::-1],
        matrix,
        atol=2e-4,
    )


def test_resampling_keeps_straight_lines_straight_away_from_the_ends():
    # Enlarging by 2 puts sample i at (i + 0.5) / 2 - 0.5, where a line has that value.
    line = np.asarray(_matrix(0, 32, 64, 32)) @ np.arange(32.0)
    np.testing.assert_allclose(line[6:-6], ((np.arange(64) + 0.5) / 2 - 0.5)[6:-6], atol=1e-4)


def _boxes(extent, area=(0.2, 1.0), ratio=(3 / 4, 4 / 3)):
    keys = jax.random.split(jax.random.key(0), 4000)
    return np.asarray(_random_boxes(keys, jnp.array(extent), area, ratio))


@pytest.mark.parametrize("extent", [(200, 200), (100, 240), (240, 90), (1, 1), (3, 2), (0, 0)])
def test_boxes_lie_inside_the_valid_part(extent):
    top, left, height, width = _boxes(extent).T
    assert height.min() >= 1
    assert width.min() >= 1
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + height).max() <= max(extent[0], 1)
    assert (left + width).max() <= max(extent[1], 1)


def test_boxes_have_areas_and_ratios_in_range_and_use_all_of_it():
    top, left, height, width = _boxes((200, 200), area=(0.2, 0.6)).T
    share, ratio = height * width / 200**2, width / height
    assert 0.195 < share.min() < 0.21
    assert 0.58 < share.max() < 0.605
    assert share.mean() == pytest.approx(0.4, abs=0.01)
    assert 0.74 < ratio.min() < 0.77
    assert 1.31 < ratio.max() < 1.35
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.01)
    for start, side in ((top, height), (left, width)):
        place = start / np.maximum(200 - side, 1)
        assert place.mean() == pytest.approx(0.5, abs=0.02)
        assert place.min() == 0
        assert place.max() == 1


def _torchvision_box(generator, height, width, area, ratio):
    """``RandomResizedCrop.get_params`` as torchvision documents it."""
    for _ in range(10):
        target = height * width * generator.uniform(*area)
        aspect = np.exp(generator.uniform(*np.log(ratio)))
        w, h = round(np.sqrt(target * aspect)), round(np.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return generator.integers(height - h + 1), generator.integers(width - w + 1), h, w
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def test_boxes_of_an_oblong_image_have_the_distribution_of_torchvisions():
    # Half as high as wide: many tries fail, and some boxes are the fallback.
    generator = np.random.default_rng(0)
    theirs = [_torchvision_box(generator, 60, 120, (0.5, 1), (3 / 4, 4 / 3)) for _ in range(4000)]
    ours = _boxes((60, 120), area=(0.5, 1.0))
    quantiles = np.linspace(0.05, 0.95, 10)
    np.testing.assert_allclose(
        np.quantile(ours, quantiles, axis=0), np.quantile(theirs, quantiles, axis=0), atol=2.5
    )


@pytest.mark.parametrize(
    ("extent", "box"),
    # No box of the whole area has such a ratio: the widest, or tallest, one in the middle.
    [((30, 300), (0, 130, 30, 40)), ((300, 30), (130, 0, 40, 30))],
)
def test_images_too_narrow_for_any_box_give_the_central_one(extent, box):
    np.testing.assert_array_equal(np.unique(_boxes(extent, area=(1.0, 1.0)), axis=0), [box])


@pytest.mark.parametrize("extent", [(30, 300), (48, 64), (64, 48), (40, 40)])
def test_ratios_relative_to_the_image_are_those_of_a_square_stretched(extent):
    height, width = extent
    draw = jax.vmap(lambda key: random_box(key, jnp.array(extent), aspect=width / height))
    boxes = np.asarray(jax.jit(draw)(jax.random.split(jax.random.key(0), 500)))
    relative = boxes[:, 3] / boxes[:, 2] / (width / height)
    # Sides are whole pixels: 30 x 300 rounds most.
    assert relative.min() > 3 / 4 * 0.95
    assert relative.max() < 4 / 3 * 1.05
    assert abs(np.log(relative).mean()) < 0.03


def test_a_crop_sees_the_box_that_its_key_draws():
    image, extent = jnp.array(_picture(3), jnp.float32), jnp.array([30, 35])
    keys = jax.random.split(jax.random.key(2), 3)
    results = jax.jit(jax.vmap(lambda key: random_resized_crop(key, image, extent, 16)))(keys)
    for key, result in zip(keys, results, strict=True):
        box = _random_boxes(key[None], extent, (0.2, 1.0), (3 / 4, 4 / 3))[0]
        np.testing.assert_allclose(result, _crop(image, box, 16), atol=1e-3)


def test_crops_stay_in_range_ignore_padding_and_do_not_depend_on_the_batch():
    image = jnp.array(_picture(), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 8)
    draw = jax.jit(
        lambda keys, image: jax.vmap(
            lambda key: random_resized_crop(key, image, jnp.array([28, 31]), 24)
        )(keys)
    )
    batch = draw(keys, image)
    assert batch.shape == (8, 24, 24, 1)
    assert float(batch.min()) >= 0
    assert float(batch.max()) <= 255
    padded = image.at[28:].set(255).at[:, 31:].set(255)
    np.testing.assert_array_equal(batch, draw(keys, padded))
    np.testing.assert_allclose(batch[3], draw(keys[3:4], image)[0], atol=1e-2)


@pytest.mark.parametrize(("probability", "low", "high"), [(0, 0, 0), (0.5, 0.45, 0.55), (1, 1, 1)])
def test_flips_mirror_left_and_right_as_often_as_asked(probability, low, high):
    image = jnp.arange(2 * 3 * 2.0).reshape(2, 3, 2)
    keys = jax.random.split(jax.random.key(0), 2000)
    results = np.asarray(jax.vmap(lambda key: random_flip(key, image, probability))(keys))
    flipped = (results == np.asarray(image)[:, ::-1]).all(axis=(1, 2, 3))
    kept = (results == np.asarray(image)).all(axis=(1, 2, 3))
    assert np.all(flipped != kept)
    assert low <= flipped.mean() <= high


def test_impossible_arguments_are_named():
    key, image, extent = jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.array([8, 8])
    with pytest.raises(ValueError, match="area="):
        random_resized_crop(key, image, extent, 4, area=(0.5, 0.2))
    with pytest.raises(ValueError, match="area="):
        random_box(key, extent, area=(0.0, 1.0))
    with pytest.raises(ValueError, match="ratio="):
        random_box(key, extent, ratio=(2.0, 1.0))
    with pytest.raises(ValueError, match=r"extent.*\(3,\)"):
        resize(image, jnp.zeros(3, int), 4)
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        resize(image[..., 0], extent, 4)
    with pytest.raises(ValueError, match="size=0"):
        resize(image, extent, 0)
    with pytest.raises(ValueError, match="probability=2"):
        random_flip(key, image, 2)
