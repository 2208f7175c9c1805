"""Bilinear samples: the matrix product gives what the gathers give, and each has its platforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.ops.sampling import bilinear, bilinear_by_gathers, bilinear_by_product

GATHERS, PRODUCT = jax.jit(bilinear_by_gathers), jax.jit(bilinear_by_product)


def _image(shape, dtype, seed=0):
    levels = np.random.default_rng(seed).uniform(0, 255, shape)
    return levels.round().astype(dtype) if dtype == np.uint8 else levels.astype(dtype)


def _points(shape, seed=1):
    """Points inside an image, its corners among them."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (2, 16, 9)).astype(np.float32)
    points[:, 0, :2] = 0, 1
    points[0, 1, :2], points[1, 1, :2] = (0, 1), (1, 0)
    return points * (np.array(shape[:2], np.float32) - 1)[:, None, None]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(31, 18, 1), (18, 31, 3), (1, 7, 1), (7, 1, 1), (1, 1, 3)])
def test_product_and_gathers_agree(shape, dtype):
    image, (rows, columns) = _image(shape, dtype), _points(shape)
    columns = np.round(columns * 256) / 256
    expected = GATHERS(image, rows, columns)
    assert expected.dtype == jnp.float32
    np.testing.assert_allclose(PRODUCT(image, rows, columns), expected, atol=2e-4)


@pytest.mark.parametrize("seed", range(3))
def test_between_parts_of_a_pixel_the_product_is_off_by_a_share_of_the_contrast(seed):
    image, (rows, columns) = _image((24, 24, 1), np.uint8, seed), _points((24, 24), seed)
    off = np.abs(PRODUCT(image, rows, columns) - GATHERS(image, rows, columns))
    contrast = np.abs(np.diff(image.astype(int), axis=1)).max()
    assert off.max() <= contrast / 512 + 1e-3


def test_a_constant_stays_constant():
    image, (rows, columns) = np.full((24, 24, 1), 77, np.uint8), _points((24, 24))
    np.testing.assert_allclose(PRODUCT(image, rows, columns), 77, atol=1e-4)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_a_tpu_multiplies_and_others_gather(platform):
    image, points = np.zeros((8, 8, 1), np.uint8), np.zeros((8, 8), np.float32)
    traced = jax.jit(jax.vmap(bilinear)).trace(image[None], points[None], points[None])
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.gather" in text, "stablehlo.dot_general" in text) == (
        (False, True) if platform == "tpu" else (True, False)
    )
