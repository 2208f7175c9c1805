"""Normalisation and its inverse."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.ops.normalise import MEAN, STD, denormalise, normalise


@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=10)
@given(st.integers(0, 100))
def test_denormalise_undoes_normalise(channels, seed):
    image = np.random.default_rng(seed).uniform(0, 255, (2, 3, 4, channels)).astype(np.float32)
    np.testing.assert_allclose(denormalise(normalise(image, channels)), image, atol=1e-3)


def test_channels_get_imagenets_statistics():
    image = jnp.broadcast_to(255 * jnp.array(MEAN), (2, 2, 3))
    np.testing.assert_allclose(normalise(image, 3), np.zeros((2, 2, 3)), atol=1e-6)
    image = image + 255 * jnp.array(STD).reshape(1, 1, 3)
    np.testing.assert_allclose(normalise(image, 3), np.ones((2, 2, 3)), atol=1e-5)


def test_grey_is_repeated_where_three_channels_are_asked_for():
    grey = jnp.full((2, 2, 1), 100.0)
    result = normalise(grey, 3)
    assert result.shape == (2, 2, 3)
    np.testing.assert_allclose(denormalise(result), np.full((2, 2, 3), 100), atol=1e-3)


def test_colour_turned_grey_is_normalised_as_the_grey_of_imagenet():
    colour = jnp.broadcast_to(255 * jnp.array(MEAN), (2, 2, 3))
    np.testing.assert_allclose(normalise(colour, 1), np.zeros((2, 2, 1)), atol=1e-5)


def test_stored_bytes_are_taken_as_they_are():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    expected = normalise(image.astype(np.float32), 3)
    np.testing.assert_array_equal(normalise(jnp.array(image), 3), expected)


def test_numbers_of_channels_other_than_one_and_three_are_named():
    with pytest.raises(ValueError, match="channels=2"):
        normalise(jnp.zeros((2, 2, 1)), 2)
    with pytest.raises(ValueError, match=r"\(2, 2, 4\)"):
        normalise(jnp.zeros((2, 2, 4)), 3)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        denormalise(jnp.zeros((2, 3)))
