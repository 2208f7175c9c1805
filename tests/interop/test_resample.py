"""Position embeddings and kernels at other sizes, against PyTorch's and timm's numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.interop.resample import resample_kernel, resample_position

# torch.nn.functional.interpolate(grid, size, mode="bicubic", align_corners=False, antialias) of
# PyTorch 2.13 in float64, where grid[i, j] = sin((4 i + j)^2), 3 x 4.
INTERPOLATED = {
    (True, (2, 6)): [
        [-0.193287173, 0.247156168, 0.385163277, -0.726076541, -0.561460981, -0.097185240],
        [0.550311896, 0.035528718, -0.585537918, -0.728805557, -0.195830600, 0.323026980],
    ],
    (True, (5, 3)): [
        [0.337107599, 0.075240527, 0.110598495],
        [0.091435157, -0.170417290, -0.408132559],
        [-0.200294056, -0.557928274, -1.012316743],
        [0.251422380, -0.660733623, 0.009739008],
        [0.585024501, -0.684555813, 0.758134107],
    ],
    (False, (2, 6)): [
        [-0.172453488, 0.402702779, 0.477822736, -0.678585948, -0.533927717, 0.108768599],
        [0.739326158, 0.049278718, -0.684670458, -0.733068235, -0.064955345, 0.606770142],
    ],
    (False, (5, 3)): [
        [0.186835047, 0.065653386, 0.330919876],
        [-0.074483598, -0.184833622, -0.372051066],
        [-0.250658177, -0.551047299, -0.974130726],
        [0.299613591, -0.777299218, 0.016686317],
        [0.786265630, -0.883677452, 0.953809016],
    ],
}

# timm.layers.resample_patch_embed (0.9.2) of kernel[i, j] = sin((3 i + j)^2), 3 x 3.
TIMM_KERNELS = {
    2: [[1.556169510, -0.945052147], [-2.297192097, 0.803337455]],
    4: [
        [-0.308613360, 0.560950100, 0.414893270, -0.655218840],
        [0.324866503, 0.206750691, -0.063914008, -0.317444324],
        [0.190515250, -0.368210852, -0.330234110, 0.280637383],
        [-0.627440631, -0.803483844, -0.217107609, 0.764081299],
    ],
}
SIDES = st.integers(1, 9)


def embedding(values, cls=0.0):
    """[1, 1 + N, 2]: the values and twice them, after the class token."""
    flat = np.concatenate([[cls], np.ravel(values)])
    return np.stack([flat, 2 * flat], axis=1)[None]


@pytest.mark.parametrize(("antialias", "size"), INTERPOLATED)
def test_position_embeddings_are_resampled_as_pytorch_does(antialias, size):
    given_rows = embedding(np.sin(np.arange(12.0) ** 2), cls=5.0)
    resampled = resample_position(given_rows, (3, 4), size, antialias)
    expected = embedding(INTERPOLATED[antialias, size], cls=5.0)
    assert resampled.dtype == np.float32
    np.testing.assert_allclose(resampled, expected, atol=3e-7)


@pytest.mark.parametrize("size", TIMM_KERNELS)
def test_kernels_are_resampled_as_timm_does(size):
    kernel = np.sin(np.arange(9.0) ** 2).reshape(3, 3)
    weight = np.stack([kernel, -kernel])[None]
    expected = np.stack([TIMM_KERNELS[size], np.negative(TIMM_KERNELS[size])])[None]
    np.testing.assert_allclose(resample_kernel(weight, size), expected, atol=2e-6)


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.booleans())
def test_a_constant_embedding_stays_and_the_class_token_too(old, new, antialias):
    constant = embedding(np.full(old, 0.7), cls=-3.0)
    expected = embedding(np.full(new, 0.7), cls=-3.0).astype(np.float32)
    resampled = resample_position(constant, old, new, antialias)
    np.testing.assert_allclose(resampled, expected, rtol=1e-6)


@given(st.tuples(SIDES, SIDES), st.booleans())
def test_the_same_grid_is_the_identity(grid, antialias):
    values = np.random.Generator(np.random.Philox(0)).standard_normal(grid)
    given_rows = embedding(values, cls=1.0).astype(np.float32)
    np.testing.assert_array_equal(resample_position(given_rows, grid, grid, antialias), given_rows)


@given(st.integers(1, 6), st.integers(0, 6))
def test_a_larger_kernel_embeds_an_enlarged_patch_as_the_kernel_the_patch(side, more):
    """<x, w> = <B x, w'>, B being the resize that ``resample_position`` does too."""
    rng = np.random.Generator(np.random.Philox(side))
    patch, weight = rng.standard_normal((2, side, side))
    enlarged = resample_position(embedding(patch), (side,) * 2, (side + more,) * 2)[0, 1:, 0]
    kernel = resample_kernel(weight[None, None], side + more)
    np.testing.assert_allclose(enlarged @ kernel.ravel(), (patch * weight).sum(), atol=1e-5)
