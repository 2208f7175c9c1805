"""Mixup, cutmix and random erasing: shares add up to what is seen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.ops.mixing import Mixing, mix, mix_targets, partners, random_erase

KEYS = jax.random.split(jax.random.key(0), 500)
BOTH = Mixing(0.8, 1.0, probability=0.7, switch=0.25)
WHITE, BLACK = jnp.full((24, 32, 1), 200.0), jnp.zeros((24, 32, 1))


@functools.cache
def _mixed(mixing):
    return jax.jit(jax.vmap(lambda key: mix(key, WHITE, BLACK, mixing)))(KEYS)


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.8), Mixing(cutmix=1.0), BOTH])
def test_the_share_of_the_label_is_the_share_of_the_picture(mixing):
    mixed = _mixed(mixing)
    np.testing.assert_allclose(mixed.image.mean(axis=(1, 2, 3)) / 200, mixed.share, atol=1e-4)
    np.testing.assert_allclose(mixed.own, mixed.image[..., 0] / 200, atol=1e-4)
    untouched = (np.asarray(mixed.image) == 200).all(axis=(1, 2, 3)).mean()
    assert untouched == pytest.approx(1 - mixing.probability, abs=0.08)


def test_mixup_shares_are_beta_distributed():
    mixed = _mixed(Mixing(mixup=0.8))
    share = np.asarray(mixed.share)
    assert share.mean() == pytest.approx(0.5, abs=0.05)
    assert share.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.15)
    assert (np.ptp(mixed.own, axis=(1, 2)) == 0).all()


def test_cutmix_puts_one_box_of_the_partner_in():
    own = np.asarray(_mixed(Mixing(cutmix=1.0)).own)
    assert set(np.unique(own)) == {0, 1}
    for rows, columns in ((~own.all(axis=2), ~own.all(axis=1)) for own in [own.astype(bool)]):
        boxes = rows[:, :, None] & columns[:, None, :]
        np.testing.assert_array_equal(own == 0, boxes)
        for line in (rows, columns):  # one run each
            edges = np.abs(np.diff(np.pad(line, ((0, 0), (1, 1))).astype(int), axis=1)).sum(axis=1)
            assert set(edges) <= {0, 2}


def test_the_box_of_cutmix_has_the_area_that_was_drawn_but_for_the_border():
    cut = 1 - np.asarray(_mixed(Mixing(cutmix=1.0)).share)
    # Uniform shares a with sides sqrt(a); a side s with a uniform centre keeps s - s^2 / 4 of it.
    shares = np.linspace(0, 1, 2001)
    expected = np.mean((np.sqrt(shares) - shares / 4) ** 2)
    assert cut.mean() == pytest.approx(expected, abs=0.03)


def test_both_take_turns_as_the_switch_says():
    own = np.asarray(_mixed(BOTH).own)
    is_cut = np.isin(own, (0, 1)).all(axis=(1, 2)) & (own == 0).any(axis=(1, 2))
    is_blend = (np.ptp(own, axis=(1, 2)) == 0) & (own[:, 0, 0] < 1)
    assert is_cut.mean() == pytest.approx(0.7 * 0.25, abs=0.05)
    assert is_blend.mean() == pytest.approx(0.7 * 0.75, abs=0.06)


def test_no_mixing_leaves_pictures_alone():
    mixed = mix(KEYS[0], WHITE, BLACK, Mixing())
    np.testing.assert_array_equal(mixed.image, WHITE)
    assert float(mixed.share) == 1


def test_partners_are_others_of_the_batch_each_once():
    batch = jnp.arange(5)
    assert sorted(partners(batch).tolist()) == batch.tolist()
    assert not (partners(batch) == batch).any()


def test_targets_mix_in_the_share_and_unknown_ones_stay_unknown():
    own, other = jnp.array([1.0, 0.0, jnp.nan]), jnp.array([0.0, jnp.nan, 1.0])
    np.testing.assert_allclose(
        mix_targets(own, other, jnp.array(0.7)), [0.7, np.nan, np.nan], rtol=1e-6
    )
    np.testing.assert_array_equal(mix_targets(own, other, jnp.array(1.0)), own)
    np.testing.assert_array_equal(mix_targets(own, other, jnp.array(0.0)), other)


def test_erasing_fills_a_box_of_an_area_in_range_as_often_as_asked():
    image = jnp.asarray(np.random.default_rng(0).integers(50, 200, (40, 40, 1)), jnp.float32)
    results = jax.jit(jax.vmap(lambda key: random_erase(key, image, 0.25, (0.1, 0.3))))(KEYS)
    changed = np.asarray(results != image)[..., 0]
    areas = changed.mean(axis=(1, 2))
    assert (areas > 0).mean() == pytest.approx(0.25, abs=0.05)
    assert areas[areas > 0].min() > 0.08
    assert areas.max() < 0.32
    rows, columns = changed.any(axis=2), changed.any(axis=1)
    inside = np.asarray(results)[..., 0][rows[:, :, None] & columns[:, None, :]]
    assert inside.mean() == pytest.approx(float(image.mean()), abs=2)
    assert inside.std() == pytest.approx(float(image.std()), rel=0.1)


def test_impossible_arguments_are_named():
    with pytest.raises(ValueError, match="mixup=-1"):
        Mixing(mixup=-1.0)
    with pytest.raises(ValueError, match="switch=2"):
        Mixing(switch=2.0)
    with pytest.raises(ValueError, match="mix takes two"):
        mix(KEYS[0], WHITE, BLACK[:3], Mixing())
    with pytest.raises(ValueError, match="probability=-1"):
        random_erase(KEYS[0], WHITE, -1)
    with pytest.raises(ValueError, match=r"\(24, 32\)"):
        random_erase(KEYS[0], WHITE[..., 0], 0.5)
