"""Degradations: parity with OpenCV and PIL, and how often each is applied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import correlate

from ufm_jax.ops.degrade import (
    MOTION_DEGREES,
    MOTION_TAPS,
    SALT_AND_PEPPER_DENSITY,
    degrade,
    gaussian_blur,
    gaussian_kernel,
    motion_blur,
    motion_kernel,
    salt_and_pepper,
)

UNIT = 1024 * MOTION_TAPS
_BLURS = {blur: jax.jit(jax.vmap(blur)) for blur in (motion_blur, gaussian_blur)}
_degrade = jax.jit(jax.vmap(degrade, in_axes=(0, 0, None)), static_argnums=2)


@pytest.fixture
def reference(shared):
    with np.load(shared / "reference" / "texture_and_degradation.npz") as vectors:
        return dict(vectors)


def _picture(height, width, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def _blur(function, images):
    return np.asarray(_BLURS[function](np.asarray(images, np.float32)))


def test_motion_kernel_is_the_published_one(reference):
    kernel = motion_kernel(MOTION_TAPS, MOTION_DEGREES)
    np.testing.assert_array_equal(kernel / UNIT, reference["motion_blur_kernel"])


@pytest.mark.parametrize(
    ("function", "name"),
    [(motion_blur, "motion_blur_u8"), (gaussian_blur, "gaussian_blur_radius_1p1_u8")],
)
def test_blurs_equal_the_published_pictures(reference, function, name):
    difference = _blur(function, reference["images_nhwc_u8"]).round() - reference[name]
    assert np.abs(difference).max() <= 2
    assert np.abs(difference).mean() <= 0.5


def test_motion_kernel_without_a_turn_is_the_diagonal_and_at_45_degrees_lies_flat():
    np.testing.assert_array_equal(motion_kernel(8, 0.0), 1024 * np.eye(8))
    rows = motion_kernel(MOTION_TAPS, MOTION_DEGREES).sum(axis=1) / UNIT
    assert np.flatnonzero(rows).tolist() == [11, 12, 13]
    assert rows[12] > 0.85 * rows.sum()


def test_motion_blur_is_a_correlation_in_whole_levels_and_a_stretch():
    image = _picture(20, 30, 3)
    kernel = motion_kernel(MOTION_TAPS, MOTION_DEGREES)
    smeared = [correlate(image[..., c].astype(int), kernel, mode="mirror") for c in range(3)]
    levels = (np.stack(smeared, -1) + UNIT // 2 - 1) // UNIT
    expected = 255 * (levels - levels.min()) / (levels.max() - levels.min())
    np.testing.assert_allclose(_blur(motion_blur, image[None])[0], expected, atol=1e-4)


@pytest.mark.parametrize("level", [0.0, 100.0, 255.0])
def test_blurs_of_a_flat_image_are_finite(level):
    image = jnp.full((16, 20, 1), level)
    np.testing.assert_array_equal(_blur(motion_blur, image[None])[0], np.zeros((16, 20, 1)))
    np.testing.assert_allclose(_blur(gaussian_blur, image[None])[0], image, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 9), (24, 17)])
def test_gaussian_blur_is_that_of_pil_up_to_the_edges(shape):
    image = _picture(*shape, 3)
    expected = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.1)), np.float32)
    np.testing.assert_allclose(_blur(gaussian_blur, image[None])[0], expected, atol=2.5)


@pytest.mark.parametrize("radius", [0.5, 1.1, 3.0])
def test_gaussian_kernel_has_its_variance(radius):
    kernel = gaussian_kernel(radius)
    offset = np.arange(kernel.size) - kernel.size // 2
    np.testing.assert_allclose(kernel, kernel[::-1])
    assert kernel.sum() == pytest.approx(1)
    assert (kernel * offset**2).sum() == pytest.approx(radius**2)


def test_salt_and_pepper_have_half_of_the_density_each_in_all_channels():
    image = jnp.full((201, 301, 3), 100.0)
    noisy = np.asarray(salt_and_pepper(jax.random.key(0), image))
    np.testing.assert_array_equal(noisy[..., 0], noisy[..., 2])
    half = SALT_AND_PEPPER_DENSITY / 2
    assert (noisy == 255).mean() == pytest.approx(half, abs=0.005)
    assert (noisy == 0).mean() == pytest.approx(half, abs=0.005)
    assert (noisy == 100).mean() == pytest.approx(1 - 2 * half, abs=0.01)


def test_salt_and_pepper_are_spread_evenly():
    noisy = np.asarray(salt_and_pepper(jax.random.key(1), jnp.full((200, 200, 1), 100.0))) != 100
    for part in (noisy[:100], noisy[100:], noisy[:, ::2], noisy[:, 1::2]):
        assert part.mean() == pytest.approx(SALT_AND_PEPPER_DENSITY, abs=0.01)


def _repeat(image, keys):
    return jnp.broadcast_to(image, (len(keys), *image.shape))


def _signatures(image, keys, probability):
    """For each key which degradations were applied, as bits, found from the result alone."""
    results = np.asarray(_degrade(keys, _repeat(image, keys), probability))
    plain = np.stack([image, *_blur(motion_blur, image[None])])
    plain = [*plain, *_blur(gaussian_blur, plain)]
    bits = []
    for result in results:
        untouched = (result != 0) & (result != 255)
        fits = [np.allclose(result[untouched], x[untouched], atol=1e-2) for x in plain]
        assert sum(fits) == 1
        salted = not np.allclose(result, plain[fits.index(True)], atol=1e-2)
        bits.append(fits.index(True) + 4 * salted)
    return np.array(bits)


def test_each_subset_is_as_likely_and_in_the_published_order():
    image = jnp.array(_picture(16, 16, 1), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 1400)
    counts = np.bincount(_signatures(image, keys, 0.5), minlength=8) / 1400
    assert counts[0] == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(counts[1:], 0.5 / 7, atol=0.03)


def test_probability_0_leaves_images_alone():
    images = jnp.array(np.stack([_picture(16, 16, 1, seed) for seed in range(20)]), jnp.float32)
    keys = jax.random.split(jax.random.key(2), 20)
    np.testing.assert_array_equal(_degrade(keys, images, 0.0), images)


def test_probability_1_changes_every_image_within_range_whatever_the_batch():
    keys = jax.random.split(jax.random.key(3), 8)
    images = jnp.array(np.stack([_picture(20, 24, 3, seed) for seed in range(8)]), jnp.float32)
    batch = _degrade(keys, images, 1.0)
    assert float(batch.min()) >= 0
    assert float(batch.max()) <= 255.001
    for row in range(8):
        assert not np.allclose(batch[row], images[row], atol=1)
        alone = _degrade(keys[row : row + 1], images[row : row + 1], 1.0)[0]
        np.testing.assert_allclose(alone, batch[row], atol=1e-3)


def test_impossible_arguments_are_named():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"probability=1\.5"):
        degrade(key, jnp.zeros((20, 20, 1)), 1.5)
    with pytest.raises(ValueError, match=r"above 12 pixels.*\(20, 12, 1\)"):
        degrade(key, jnp.zeros((20, 12, 1)), 0.5)
    with pytest.raises(ValueError, match=r"\(20, 20\)"):
        salt_and_pepper(key, jnp.zeros((20, 20)))
