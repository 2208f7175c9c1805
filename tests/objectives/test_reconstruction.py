"""The objective: what the encoder sees, what the target is, what the loss depends on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import AugmentConfig
from ufm_jax.objectives.reconstruction import init_params, make_loss, make_view

MODEL = ModelConfig(
    size="xs",
    image_size=32,
    patch_size=8,
    channels=1,
    decoder_width=48,
    decoder_depth=1,
    decoder_heads=3,
)
NO_AUGMENT = AugmentConfig(
    crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, degrade=0.0, scan_conversion=0.0
)


def _batch(count=4, size=40):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 255, (count, size, size, 1), dtype=np.uint8),
        "extent": np.tile(np.array([[size, size]], np.int32), (count, 1)),
        "geometry": np.tile(
            np.array([[1, 0, 0, size - 1, size - 1, 0, 0]], np.float32), (count, 1)
        ),
    }


def _view(augment=NO_AUGMENT, seed=0, **changes):
    example = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), _batch())
    model = dataclasses.replace(MODEL, **changes)
    return make_view(jax.random.key(seed), example, model, augment)


@pytest.fixture(scope="module")
def params():
    return init_params(MODEL, jax.random.key(0))


def test_the_target_stays_clean_where_the_input_is_degraded():
    clean = _view().clean
    degraded = _view(dataclasses.replace(NO_AUGMENT, degrade=1.0))
    np.testing.assert_array_equal(degraded.clean, clean)
    assert float(jnp.abs(degraded.degraded - clean).max()) > 10
    np.testing.assert_array_equal(_view().degraded, clean)


def test_each_augmentation_has_its_own_key():
    """Turning one off leaves what the others draw as it was."""
    with_flip = _view(dataclasses.replace(NO_AUGMENT, flip=1.0))
    np.testing.assert_array_equal(with_flip.clean, _view().clean[:, ::-1])
    cropped = AugmentConfig(flip=0.0, degrade=0.0, scan_conversion=0.0)
    with_degrade = dataclasses.replace(cropped, degrade=1.0)
    np.testing.assert_array_equal(_view(cropped).clean, _view(with_degrade).clean)


def test_scan_conversion_changes_the_view():
    converted = _view(dataclasses.replace(NO_AUGMENT, scan_conversion=1.0))
    assert float((converted.clean == 0).mean()) > 0.1  # beside the fan
    assert float((_view().clean == 0).mean()) < 0.05


def test_the_share_of_hidden_patches():
    masking = _view(mask_ratio=0.75).masking
    assert masking.keep_ids.shape == (4,)
    assert float(masking.mask.sum()) == 12


def _keys(seed):
    return jax.random.split(jax.random.key(seed), 4)


def test_losses_are_one_an_example_and_follow_its_key(params):
    loss_fn = jax.jit(make_loss(MODEL, AugmentConfig()))
    losses = loss_fn(params, _batch(), _keys(0))
    assert losses.shape == (4,)
    assert np.isfinite(losses).all()
    np.testing.assert_array_equal(losses, loss_fn(params, _batch(), _keys(0)))
    one_changed = loss_fn(params, _batch(), _keys(0).at[2].set(jax.random.key(1)))
    assert np.flatnonzero(losses != one_changed).tolist() == [2]


def test_training_on_one_batch_lowers_its_loss(params):
    loss_fn = make_loss(MODEL, NO_AUGMENT)
    batch, keys = _batch(), _keys(0)

    @jax.jit
    def descend(params):
        loss, grads = jax.value_and_grad(lambda p: loss_fn(p, batch, keys).mean())(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss

    losses = []
    for _ in range(20):
        params, loss = descend(params)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


def test_bfloat16_is_close_to_float32(params):
    batch, keys = _batch(), _keys(0)
    exact, rough = (
        jax.jit(make_loss(dataclasses.replace(MODEL, dtype=dtype), NO_AUGMENT))(params, batch, keys)
        for dtype in ("float32", "bfloat16")
    )
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, rtol=0.02)
