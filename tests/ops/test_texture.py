"""Texture scores: parity with the published ones, and properties of a Laplacian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate

from ufm_jax.ops.pixels import rgb_to_grey
from ufm_jax.ops.texture import texture_scores

_scores = jax.jit(texture_scores, static_argnums=1)
KERNEL = np.array([[2, 0, 2], [0, -8, 0], [2, 0, 2]])


def _by_hand(image, patch_size):
    scores = []
    for top in range(0, image.shape[0], patch_size):
        for left in range(0, image.shape[1], patch_size):
            patch = image[top : top + patch_size, left : left + patch_size]
            laplacian = correlate(patch, KERNEL, mode="mirror")
            scores.append(np.minimum(np.abs(laplacian), 255).mean())
    return np.array(scores)


@settings(max_examples=10)
@given(st.integers(0, 100), st.sampled_from([2, 3, 8]))
def test_equals_the_laplacian_patch_by_patch(seed, patch_size):
    image = np.random.default_rng(seed).uniform(0, 60, (2 * patch_size, 3 * patch_size))
    scores = _scores(image.astype(np.float32), patch_size)
    np.testing.assert_allclose(scores, _by_hand(image, patch_size), rtol=1e-4, atol=1e-3)


def test_equals_the_published_scores(shared):
    with np.load(shared / "reference" / "texture_and_degradation.npz") as vectors:
        images, expected = vectors["images_nhwc_u8"], vectors["texture_16x16_raster"]
    scores = jax.vmap(lambda image: _scores(image, 16))(images.astype(np.float32))
    np.testing.assert_allclose(scores, expected, atol=0.02)


def test_flat_patches_score_zero_and_edges_of_neighbours_do_not_leak():
    image = jnp.zeros((16, 16)).at[:8, :8].set(200.0)
    np.testing.assert_array_equal(_scores(image, 8), np.zeros(4))


def test_laplacian_is_cut_at_255():
    checkers = 255.0 * (np.indices((16, 16)).sum(axis=0) % 2)
    stripes = 255.0 * (np.indices((16, 16))[0] % 2)
    assert _scores(checkers, 16)[0] == 0  # diagonal neighbours are equal
    assert _scores(stripes, 16)[0] == 255


def test_grey_and_its_three_equal_channels_score_alike():
    image = jax.random.uniform(jax.random.key(0), (16, 16, 1), maxval=255.0)
    one, two = _scores(image, 8), _scores(image[..., 0], 8)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(_scores(jnp.tile(image, 3), 8), one, atol=1e-3)


def test_grey_is_that_of_pil():
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    grey = rgb_to_grey(jnp.array(image, jnp.float32))
    expected = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    np.testing.assert_allclose(grey[..., 0], expected, atol=0.51)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(4, 4, 2\)"):
        texture_scores(jnp.zeros((4, 4, 2)), 2)
    with pytest.raises(ValueError, match="patch_size=3"):
        texture_scores(jnp.zeros((4, 4)), 3)
    with pytest.raises(ValueError, match="patch_size=1"):
        texture_scores(jnp.zeros((4, 4)), 1)
    with pytest.raises(ValueError, match=r"\(4, 4, 1\)"):
        rgb_to_grey(jnp.zeros((4, 4, 1)))
