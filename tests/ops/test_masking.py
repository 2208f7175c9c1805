"""Masking: how often patches are hidden, and the invariants of one draw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ufm_jax.ops.masking import masking_from_noise, num_kept, texture_mask

DRAWS = 4000


def _share_hidden(draw):
    """Share of ``DRAWS`` draws in which each patch is hidden."""
    keys = jax.random.split(jax.random.key(1), DRAWS)
    return np.asarray(jax.jit(lambda keys: jax.vmap(draw)(keys).mask.mean(axis=0))(keys))


def _check(masking, num_patches, kept):
    """Asserts what holds for every masking of one image."""
    keep_ids, restore_ids, mask = (np.asarray(x) for x in masking)
    assert (keep_ids.dtype, restore_ids.dtype, mask.dtype) == (np.int32, np.int32, np.float32)
    assert keep_ids.shape == (kept,)
    assert sorted(restore_ids) == list(range(num_patches))
    np.testing.assert_array_equal(np.flatnonzero(mask == 0), np.sort(keep_ids))
    np.testing.assert_array_equal(mask == 1, restore_ids >= kept)
    np.testing.assert_array_equal(restore_ids[keep_ids], np.arange(kept))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw(seed, scores, ratio, strength):
    return texture_mask(jax.random.key(seed), scores, ratio, strength)


@pytest.mark.parametrize(("strength", "least", "most"), [(1.0, 0.586, 0.929), (0.0, 0.75, 0.75)])
def test_textured_quarter_is_hidden_as_often_as_sampling_without_replacement_says(
    strength, least, most
):
    # The expectations are of numpy.random.choice(replace=False, p=weight) over many draws.
    ranks = np.random.default_rng(0).permutation(196)
    scores = jnp.array(ranks / 195, jnp.float32)
    share = _share_hidden(lambda key: texture_mask(key, scores, 0.75, strength))
    assert share[ranks < 49].mean() == pytest.approx(least, abs=0.02)
    assert share[ranks >= 147].mean() == pytest.approx(most, abs=0.02)


def test_draws_equal_numpys_weighted_choice_without_replacement():
    scores = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 8.0])
    weight = 8 - scores
    generator = np.random.default_rng(3)
    expected = np.ones((DRAWS, 6))
    for row in expected:
        row[generator.choice(6, 2, replace=False, p=weight / weight.sum())] = 0
    share = _share_hidden(lambda key: texture_mask(key, jnp.array(scores), 0.6, 1.0))
    np.testing.assert_allclose(share, expected.mean(axis=0), atol=0.03)


def test_strength_moves_masking_towards_texture():
    scores = jnp.arange(16.0)

    def textured(strength):
        share = _share_hidden(lambda key: texture_mask(key, scores, 0.5, strength))
        return share[8:].mean()

    assert 0.52 < textured(0.5) < textured(4.0) - 0.02


@pytest.mark.parametrize(
    "scores",
    [np.zeros(16), np.full(16, 255.0), np.full(16, np.nan), np.full(16, np.inf)],
    ids=["zero", "constant", "nan", "inf"],
)
def test_scores_without_order_mask_uniformly(scores):
    share = _share_hidden(lambda key: texture_mask(key, jnp.array(scores), 0.75, 1.0))
    np.testing.assert_allclose(share, 0.75, atol=0.04)


def test_a_score_that_is_not_finite_counts_as_the_mean():
    scores = jnp.arange(1.0, 13.0).at[8].set(jnp.nan)
    mean = scores.at[8].set((scores[:8].sum() + scores[9:].sum()) / 11)
    for seed in range(5):
        one, other = _draw(seed, scores, 0.75, 1.0), _draw(seed, mean, 0.75, 1.0)
        np.testing.assert_array_equal(one.restore_ids, other.restore_ids)


@settings(max_examples=40)
@given(
    st.integers(0, 2**31 - 1),
    arrays(np.float32, 12, elements=st.floats(0, 255, width=32) | st.sampled_from([np.nan])),
    st.sampled_from([(0.75, 1.0), (0.25, 0.0), (0.9, 8.0)]),
)
@example(0, np.zeros(12, np.float32), (0.75, 1.0))
@example(0, np.full(12, np.inf, np.float32), (0.9, 8.0))
def test_every_draw_is_a_partition_of_the_patches(seed, scores, setting):
    ratio, strength = setting
    _check(_draw(seed, scores, ratio, strength), 12, num_kept(12, ratio))


def test_least_noise_is_kept_in_ascending_order_and_ties_in_patch_order():
    masking = masking_from_noise(jnp.array([0.5, 0.1, jnp.nan, 0.5, 0.2]), 3)
    np.testing.assert_array_equal(masking.keep_ids, [1, 4, 0])
    np.testing.assert_array_equal(masking.restore_ids, [2, 0, 4, 3, 1])
    np.testing.assert_array_equal(masking.mask, [0, 0, 1, 1, 0])


def test_noise_masks_as_the_published_code_does(shared):
    with np.load(shared / "reference" / "mae_forward.npz") as vectors:
        noise, expected = vectors["noise"], vectors["mask"]
    masking = jax.vmap(lambda x: masking_from_noise(x, num_kept(16, 0.75)))(
        jnp.array(noise, jnp.float32)
    )
    np.testing.assert_array_equal(masking.mask, expected)
    np.testing.assert_array_equal(masking.keep_ids, np.argsort(noise, axis=1)[:, :4])


def test_a_draw_does_not_depend_on_the_batch():
    scores = np.random.default_rng(0).uniform(size=(3, 12)).astype(np.float32)
    batch = jax.vmap(lambda seed, s: _draw(seed, s, 0.75, 1.0))(np.arange(3), scores)
    alone = _draw(1, scores[1], 0.75, 1.0)
    np.testing.assert_array_equal(batch.restore_ids[1], alone.restore_ids)


@pytest.mark.parametrize(
    ("num_patches", "ratio", "kept"), [(196, 0.75, 49), (16, 0.75, 4), (196, 0.6, 78), (2, 0.5, 1)]
)
def test_number_kept_is_that_of_the_published_model(num_patches, ratio, kept):
    assert num_kept(num_patches, ratio) == kept


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, 0.999, float("nan")])
def test_ratios_that_keep_none_or_all_are_named(ratio):
    with pytest.raises(ValueError, match=f"mask_ratio={ratio}"):
        num_kept(196, ratio)


def test_impossible_arguments_are_named():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="texture_strength=-1"):
        texture_mask(key, jnp.zeros(16), 0.5, -1.0)
    with pytest.raises(ValueError, match=r"\(2, 16\)"):
        texture_mask(key, jnp.zeros((2, 16)), 0.5, 1.0)
    with pytest.raises(ValueError, match=r"\(2, 16\)"):
        masking_from_noise(jnp.zeros((2, 16)), 3)
    with pytest.raises(ValueError, match="num_keep=17"):
        masking_from_noise(jnp.zeros(16), 17)
