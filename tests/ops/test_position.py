"""The position embedding: parity with published models, and what its halves hold."""

import numpy as np
import pytest

from ufm_jax.ops.position import sincos_2d


def test_equals_the_embedding_of_published_models(shared):
    with np.load(shared / "reference" / "schedules.npz") as vectors:
        expected = vectors["pos_embed_768_14x14_with_cls"]
    np.testing.assert_allclose(sincos_2d(768, 14, 14, cls_token=True), expected, atol=1e-6)


def test_class_token_is_a_row_of_zeros_before_the_patches():
    without, with_token = (sincos_2d(8, 2, 3, cls_token=token) for token in (False, True))
    assert without.dtype == with_token.dtype == np.float32
    np.testing.assert_array_equal(with_token, np.concatenate([np.zeros((1, 8)), without]))


def test_first_half_holds_the_column_and_second_the_row():
    embedding = sincos_2d(8, 3, 5, cls_token=False).reshape(3, 5, 8)
    np.testing.assert_array_equal(embedding[:1, :, :4], embedding[1:2, :, :4])
    np.testing.assert_array_equal(embedding[:, :1, 4:], embedding[:, 1:2, 4:])
    angles = np.array([2.0, 2.0 / 100])  # column 2; frequencies 1 and 10000 ** (-1 / 2)
    np.testing.assert_allclose(embedding[1, 2, :4], [*np.sin(angles), *np.cos(angles)], atol=1e-7)


def test_every_place_of_a_grid_is_distinct():
    embedding = sincos_2d(16, 14, 14, cls_token=False)
    assert len(np.unique(embedding.round(4), axis=0)) == 196


@pytest.mark.parametrize("dim", [0, 2, 6, -4])
def test_widths_that_do_not_divide_are_named(dim):
    with pytest.raises(ValueError, match=f"dim={dim}"):
        sincos_2d(dim, 2, 2, cls_token=False)


def test_empty_grids_are_refused():
    with pytest.raises(ValueError, match="0 x 2"):
        sincos_2d(8, 0, 2, cls_token=False)
