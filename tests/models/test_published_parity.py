"""Outputs, losses and gradients of the published PyTorch models on the same parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.interop.architecture import describe
from ufm_jax.interop.convert import params_from_torch
from ufm_jax.models.classifier import Classifier
from ufm_jax.models.execution import Execution
from ufm_jax.models.mae import MAE
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.models.vit import Encoder, stack_layers
from ufm_jax.ops.losses import masked_patch_loss
from ufm_jax.ops.masking import masking_from_noise
from ufm_jax.ops.patches import patchify

GRID, PATCH = (4, 4), 16
SIZE = EncoderSize(width=96, depth=3, heads=3)
TOLERANCE = 1e-4

# Compiled without optimisation, which takes half as long.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def load(path):
    with np.load(path) as arrays:
        values = dict(arrays)
    prefix = "state_dict/"
    state = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    return values, state


def to_patches(images_nchw):
    return patchify(jnp.asarray(images_nchw).transpose(0, 2, 3, 1), PATCH)


def assert_relative(value, expected, tolerance=TOLERANCE):
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    assert np.abs(value - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture
def published(shared):
    return load(shared / "reference" / "mae_forward.npz")


@pytest.fixture
def masking(published):
    noise = jnp.asarray(published[0]["noise"])
    return jax.vmap(lambda n: masking_from_noise(n, 4))(noise)


def make_mae(**options):
    return MAE(SIZE, GRID, 64, 2, 4, Execution(**options))


def test_the_mask_follows_the_noise(published, masking):
    np.testing.assert_array_equal(masking.mask, published[0]["mask"])


def test_latent_is_the_published_one(published, masking):
    values, state = published
    params = params_from_torch(state, describe(state))["encoder"]
    patches = to_patches(values["input_degraded_nchw"])
    latent = quick_jit(Encoder(SIZE, GRID).apply)({"params": params}, patches, masking.keep_ids)
    assert_relative(latent, values["latent"])


def test_prediction_loss_and_gradient_norm_are_the_published_ones(published, masking):
    values, state = published
    params = stack_layers(params_from_torch(state, describe(state)))
    model = make_mae(scan_layers=True)
    patches, target = (to_patches(values[k]) for k in ("input_degraded_nchw", "target_clean_nchw"))

    @quick_jit
    def loss_and_gradient(p, weights):
        """Of both losses in one compilation: their sum by ``weights``."""

        def loss_fn(q):
            pred = model.apply({"params": q}, patches, masking.keep_ids, masking.restore_ids)
            loss = [
                jax.vmap(functools.partial(masked_patch_loss, normalise_target=norm_pix))(
                    pred, target, masking.mask
                ).mean()
                for norm_pix in (True, False)
            ]
            return weights @ jnp.stack(loss), pred

        return jax.value_and_grad(loss_fn, has_aux=True)(p)

    for norm_pix, weights in ((True, (1.0, 0.0)), (False, (0.0, 1.0))):
        (loss, pred), gradient = loss_and_gradient(params, jnp.array(weights))
        squares = (np.sum(np.square(g, dtype=np.float64)) for g in jax.tree.leaves(gradient))
        assert_relative(pred, values["pred"])
        assert_relative(loss, values[f"loss_norm_pix_{norm_pix}"])
        assert_relative(np.sqrt(sum(squares)), values[f"grad_norm_norm_pix_{norm_pix}"])


def test_float64_prediction_agrees_to_the_position_embedding(published, masking):
    """Both sides in float64; what is left is the float32 of the stored position embedding."""
    values, state = published
    model = make_mae(dtype=jnp.dtype("float64"))
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda a: a.astype(np.float64), params_from_torch(state, describe(state))
        )
        patches = np.asarray(to_patches(values["input_degraded_nchw"]), np.float64)
        pred = quick_jit(model.apply)(
            {"params": params}, patches, masking.keep_ids, masking.restore_ids
        )
        assert pred.dtype == jnp.float64
        assert_relative(pred, values["pred"], 1e-6)


def test_classifier_features_and_logits_are_the_published_ones(shared):
    values, state = load(shared / "reference" / "vit_cls_token_forward.npz")
    variables = {"params": params_from_torch(state, describe(state))}
    model = Classifier(SIZE, GRID, num_classes=5, pool="class", learned_position=True)
    patches = to_patches(values["input_nchw"])

    @quick_jit
    def features_and_logits(v):
        return model.apply(v, patches, method="features"), model.apply(v, patches)

    features, logits = features_and_logits(variables)
    assert_relative(features, values["features"])
    assert_relative(logits, values["logits"])
