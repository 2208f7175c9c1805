"""The masked loss: parity with the published one, and what it must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.ops.losses import denormalise_patches, masked_patch_loss, normalise_patches
from ufm_jax.ops.patches import patchify


def _batch_loss(pred, target, mask, normalise_target):
    losses = jax.vmap(lambda p, t, m: masked_patch_loss(p, t, m, normalise_target))
    return jax.jit(losses)(pred, target, mask)


@pytest.mark.parametrize("normalise_target", [True, False])
def test_mean_over_images_equals_the_published_loss(shared, normalise_target):
    with np.load(shared / "reference" / "mae_forward.npz") as vectors:
        image = vectors["target_clean_nchw"].transpose(0, 2, 3, 1)
        pred, mask = (vectors[name].astype(np.float32) for name in ("pred", "mask"))
        expected = vectors[f"loss_norm_pix_{normalise_target}"]
    target = patchify(jnp.array(image), 16)
    loss = _batch_loss(pred, target, mask, normalise_target).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_worked_example():
    # Patch 0 errs by 1 and 3 (mean square 5), patch 2 by 2 and 0 (2); patch 1 is seen.
    target = jnp.zeros((3, 2))
    pred = jnp.array([[1.0, 3.0], [9.0, 9.0], [2.0, 0.0]])
    loss = masked_patch_loss(pred, target, jnp.array([1.0, 0.0, 1.0]), normalise_target=False)
    assert loss == pytest.approx(3.5)
    # (-1, 1) has mean 0 and unbiased variance 2.
    normal = normalise_patches(jnp.array([[-1.0, 1.0]]))
    np.testing.assert_allclose(normal, [[-(2**-0.5), 2**-0.5]], rtol=1e-5)


_value_and_grad = jax.jit(jax.value_and_grad(masked_patch_loss), static_argnums=3)
_loss = jax.jit(masked_patch_loss, static_argnums=3)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.booleans())
def test_seen_patches_have_neither_value_nor_gradient(seed, normalise_target):
    rng = np.random.default_rng(seed)
    pred, target, other = (rng.normal(size=(6, 12)).astype(np.float32) for _ in range(3))
    mask = (np.arange(6) % 2).astype(np.float32)
    changed = np.where(mask[:, None] == 0, other, pred)
    value, gradient = _value_and_grad(pred, target, mask, normalise_target)
    value_changed, _ = _value_and_grad(changed, target, mask, normalise_target)
    assert value == value_changed
    np.testing.assert_array_equal(gradient[::2], 0)
    assert np.all(np.abs(gradient[1::2]).max(axis=1) > 0)


@settings(max_examples=15)
@given(st.floats(0.5, 100), st.floats(-50, 50))
def test_normalised_targets_do_not_see_brightness_and_contrast(gain, offset):
    target = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    pred, mask = jnp.zeros((4, 12)), jnp.ones(4)
    plain = _loss(pred, target, mask, True)
    changed = _loss(pred, (gain * target + offset).astype(np.float32), mask, True)
    np.testing.assert_allclose(changed, plain, rtol=1e-3)


def test_denormalise_undoes_normalise_even_for_flat_patches():
    patches = np.random.default_rng(0).normal(size=(3, 5, 12)).astype(np.float32)
    patches[:, 2] = 1.0
    normal = jax.jit(normalise_patches)(patches)
    assert np.all(np.isfinite(normal))
    restored = jax.jit(denormalise_patches)(normal, patches)
    np.testing.assert_allclose(restored, patches, atol=1e-5)


def test_flat_target_has_finite_loss_and_gradient():
    loss = jax.value_and_grad(masked_patch_loss, argnums=1)
    flat, ones = np.full((2, 4), 7.0, np.float32), np.ones(2, np.float32)
    value, gradient = jax.jit(loss, static_argnums=3)(0 * flat, flat, ones, True)
    assert value == 0
    assert np.all(np.isfinite(gradient))


def test_image_with_nothing_hidden_has_loss_zero():
    assert masked_patch_loss(jnp.ones((2, 4)), jnp.zeros((2, 4)), jnp.zeros(2), False) == 0


def test_half_precision_is_summed_in_float32():
    pred = jnp.full((4, 4096), 0.5, jnp.bfloat16)
    loss = masked_patch_loss(pred, jnp.zeros((4, 4096)), jnp.ones(4), False)
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(0.25, rel=1e-6)


def test_shapes_that_do_not_belong_together_are_named():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        masked_patch_loss(jnp.zeros((2, 4)), jnp.zeros((3, 4)), jnp.zeros(2), False)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        masked_patch_loss(jnp.zeros((2, 4)), jnp.zeros((2, 4)), jnp.zeros(3), False)
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        normalise_patches(jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        denormalise_patches(jnp.zeros((2, 4)), jnp.zeros((2, 5)))
