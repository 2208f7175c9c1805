"""Patches: order, inverse and errors."""

import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.ops.patches import patch_grid, patchify, unpatchify


def test_patches_run_row_by_row_with_pixels_row_major_and_channel_last():
    row, column, channel = np.meshgrid(range(4), range(6), range(2), indexing="ij")
    patches = patchify(jnp.array(100 * row + 10 * column + channel), 2)
    assert patches.shape == (6, 8)
    np.testing.assert_array_equal(patches[0], [0, 1, 10, 11, 100, 101, 110, 111])
    np.testing.assert_array_equal(patches[1, :2], [20, 21])  # to the right of the first
    np.testing.assert_array_equal(patches[3, :2], [200, 201])  # below the first


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize(
    ("patch_size", "rows", "columns", "channels"), [(1, 2, 3, 1), (3, 2, 1, 2), (4, 3, 2, 3)]
)
def test_unpatchify_undoes_patchify(patch_size, rows, columns, channels, lead):
    shape = (*lead, rows * patch_size, columns * patch_size, channels)
    image = np.arange(np.prod(shape)).reshape(shape)
    patches = patchify(jnp.array(image), patch_size)
    assert patches.shape == (*lead, rows * columns, patch_size**2 * channels)
    np.testing.assert_array_equal(unpatchify(patches, patch_size, *shape[-3:-1]), image)


def test_leading_axes_are_batches():
    images = jnp.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4, 1)
    np.testing.assert_array_equal(patchify(images, 2)[1, 2], patchify(images[1, 2], 2))


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="patch_size=3"):
        patchify(jnp.zeros((6, 8, 1)), 3)
    with pytest.raises(ValueError, match="patch_size=0"):
        patch_grid(6, 8, 0)
    with pytest.raises(ValueError, match="H, W, C"):
        patchify(jnp.zeros((4, 4)), 2)
    with pytest.raises(ValueError, match=r"\[\.\.\., 4, 4 \* C\]"):
        unpatchify(jnp.zeros((3, 4)), 2, 4, 4)
    with pytest.raises(ValueError, match=r"\[\.\.\., 4, 4 \* C\]"):
        unpatchify(jnp.zeros((4, 5)), 2, 4, 4)
