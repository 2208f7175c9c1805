"""Masks at the size of the original files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from ufm_jax.prediction.native_masks import native_mask, remove_small


def halves(side: int) -> np.ndarray:
    """Foreground in the right half: float32 [side, side, 2]."""
    right = (np.arange(side) >= side // 2).astype(np.float32)
    plane = np.broadcast_to(right, (side, side))
    return np.stack([1 - plane, plane], axis=-1)


@pytest.mark.parametrize("size", [(16, 16), (50, 75), (200, 311), (8, 9), (1, 40)])
def test_an_outline_stays_where_it_is(size):
    """The border between left and right falls in the middle, to half a pixel."""
    mask = native_mask(halves(16), size)
    assert mask.shape == size
    assert mask.dtype == np.uint8
    assert abs(mask.mean() - 0.5) * size[1] <= 0.5 + 1e-9


def test_classes_are_compared_after_resizing():
    """Half way between 0.9 of class 1 and 0.8 of class 2, class 1 wins; of labels, none would."""
    probabilities = np.zeros((1, 2, 3), np.float32)
    probabilities[0, 0] = 0.1, 0.9, 0.0
    probabilities[0, 1] = 0.2, 0.0, 0.8
    np.testing.assert_array_equal(
        native_mask(probabilities, (1, 101))[0, [0, 50, 51, 100]], [1, 1, 1, 2]
    )


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_only_small_regions_go(seed, least):
    rng = np.random.default_rng(seed)
    mask = (rng.integers(0, 6, (15, 17)) // 2).astype(np.uint8)
    kept = remove_small(mask, least)
    assert set(np.unique(kept)) <= {0, 1, 2}
    for number in (1, 2):
        regions, count = ndimage.label(mask == number)
        for region in range(1, count + 1):
            inside = regions == region
            expected = number if inside.sum() >= least else 0
            assert (kept[inside] == expected).all()
    assert (kept[mask == 0] == 0).all()
