"""Properties of the masked autoencoder that need no reference vectors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.models.mae import place_tokens
from ufm_jax.models.vit import Encoder, stack_layers, unstack_layers

# Compiled without optimisation, which takes half as long, and once for each model.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@partial(quick_jit, static_argnums=0)
def loss_and_gradient(model, params, inputs):
    def loss(p):
        return jnp.mean(jnp.square(model.apply({"params": p}, *inputs) - inputs.patches))

    return jax.value_and_grad(loss)(params)


@partial(quick_jit, static_argnums=0)
def apply(model, params, *arguments):
    return model.apply({"params": params}, *arguments)


def assert_close(left, right, rtol=1e-5):
    """Leaf by leaf, relative to the norm of the whole tree: the key bias's gradient is rounding."""
    scale = np.sqrt(sum(np.sum(np.square(a)) for a in jax.tree.leaves(right)))
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, atol=rtol * scale, rtol=0)


def stack_clients(params, factors):
    return jax.tree.map(lambda a: np.stack([a * np.float32(f) for f in factors]), params)


def test_scanned_layers_have_the_values_and_gradients_of_unrolled_ones(small_mae, params, inputs):
    loss, gradient = loss_and_gradient(small_mae(), params, inputs)
    scanned = loss_and_gradient(small_mae(scan_layers=True), stack_layers(params), inputs)
    np.testing.assert_allclose(scanned[0], loss, rtol=1e-6)
    assert_close(unstack_layers(scanned[1]), gradient)


def test_a_scanned_model_starts_with_stacked_parameters(small_mae, params, inputs):
    fresh = jax.eval_shape(small_mae(scan_layers=True).init, jax.random.key(0), *inputs)["params"]
    stacked = jax.eval_shape(stack_layers, params)
    assert jax.tree.structure(fresh) == jax.tree.structure(stacked)
    assert [a.shape for a in jax.tree.leaves(fresh)] == [a.shape for a in jax.tree.leaves(stacked)]


def test_unstacking_inverts_stacking(params):
    restored = unstack_layers(stack_layers(params))
    assert jax.tree.structure(restored) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, restored, params)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_rematerialisation_changes_no_value_and_no_gradient(small_mae, params, inputs, scan_layers):
    params = stack_layers(params) if scan_layers else params
    loss, gradient = loss_and_gradient(small_mae(scan_layers=scan_layers), params, inputs)
    remat = loss_and_gradient(small_mae(scan_layers=scan_layers, remat=True), params, inputs)
    np.testing.assert_allclose(remat[0], loss, rtol=1e-6)
    assert_close(remat[1], gradient)


def test_rematerialisation_keeps_fewer_numbers(small_mae, params, inputs):
    """What the backward pass reads of the forward one, counted in the residuals of ``vjp``."""

    def kept(model, parameters):
        def forward(p):
            return jax.vjp(lambda q: model.apply({"params": q}, *inputs), p)[1]

        return sum(a.size for a in jax.tree.leaves(jax.eval_shape(forward, parameters)))

    assert kept(small_mae(remat=True), params) < 0.7 * kept(small_mae(), params)


def test_bfloat16_is_close_and_keeps_parameters_and_gradients_float32(small_mae, params, inputs):
    model = small_mae(dtype=jnp.dtype("bfloat16"))
    fresh = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    loss, gradient = loss_and_gradient(model, params, inputs)
    assert {a.dtype for a in jax.tree.leaves((fresh, gradient, loss))} == {jnp.dtype("float32")}
    exact_loss, exact_gradient = loss_and_gradient(small_mae(), params, inputs)
    np.testing.assert_allclose(loss, exact_loss, rtol=2e-2)
    assert_close(gradient, exact_gradient, rtol=3e-2)


def test_vmap_over_clients_of_different_weights_equals_a_loop(small_mae, params, inputs):
    factors = (1.0, 0.5, -0.8)
    stacked = stack_clients(params, factors)
    vmapped = jax.vmap(partial(loss_and_gradient, small_mae()), in_axes=(0, None))(stacked, inputs)
    for k, factor in enumerate(factors):
        client = jax.tree.map(lambda a, f=factor: a * np.float32(f), params)
        loss, gradient = loss_and_gradient(small_mae(), client, inputs)
        np.testing.assert_allclose(vmapped[0][k], loss, rtol=1e-5)
        assert_close(jax.tree.map(lambda a, k=k: a[k], vmapped[1]), gradient)


def test_the_encoder_does_not_care_for_the_order_of_its_tokens(small_mae, params, inputs):
    encoder = Encoder(small_mae().size, small_mae().grid)
    order = np.array([2, 0, 1])
    tokens = apply(encoder, params["encoder"], inputs.patches, inputs.keep_ids)
    permuted = apply(encoder, params["encoder"], inputs.patches, inputs.keep_ids[:, order])
    np.testing.assert_allclose(permuted[:, 0], tokens[:, 0], atol=1e-5)
    np.testing.assert_allclose(permuted[:, 1:], tokens[:, 1:][:, order], atol=1e-5)


def test_keeping_all_patches_in_order_is_keeping_none_out(small_mae, params, inputs):
    encoder = Encoder(small_mae().size, small_mae().grid)
    everything = np.broadcast_to(np.arange(12), inputs.restore_ids.shape)
    np.testing.assert_allclose(
        apply(encoder, params["encoder"], inputs.patches, everything),
        apply(encoder, params["encoder"], inputs.patches),
        atol=1e-5,
    )


def test_hidden_pixels_do_not_reach_the_prediction(small_mae, params, inputs):
    hidden = (inputs.restore_ids >= inputs.keep_ids.shape[1])[..., None]
    changed = inputs._replace(patches=np.where(hidden, np.float32(1e3), inputs.patches))
    np.testing.assert_array_equal(
        apply(small_mae(), params, *changed), apply(small_mae(), params, *inputs)
    )


def test_the_mask_token_stands_at_hidden_places_and_nowhere_else(small_mae, params, inputs):
    """Without decoder blocks, a prediction depends on its own place's token alone."""
    shallow = small_mae().clone(decoder_depth=0)
    decoder = {k: v for k, v in params["decoder"].items() if k != "blocks"}
    token = np.float32(1.0) + decoder["mask_token"]
    other = params | {"decoder": decoder | {"mask_token": token * np.arange(8, dtype=np.float32)}}
    change = apply(shallow, other, *inputs) - apply(shallow, params | {"decoder": decoder}, *inputs)
    changed = np.abs(change).max(axis=-1) > 0
    np.testing.assert_array_equal(changed, inputs.restore_ids >= inputs.keep_ids.shape[1])


def test_place_tokens_is_the_scatter_it_stands_for(inputs):
    _, keep_ids, restore_ids = inputs
    rng = np.random.Generator(np.random.Philox(0))
    kept = rng.standard_normal((*keep_ids.shape, 5), np.float32)
    weights = rng.standard_normal((*restore_ids.shape, 5), np.float32)

    def scatter(a):
        zeros = jnp.zeros(weights.shape)
        return zeros.at[np.arange(len(keep_ids))[:, None], keep_ids].set(a)

    def place(a):
        return place_tokens(a, keep_ids, restore_ids)

    @partial(quick_jit, static_argnums=0)
    def value_and_gradient(function, a):
        value, pull = jax.vjp(function, a)
        return value, *pull(weights)

    jax.tree.map(
        np.testing.assert_array_equal,
        value_and_gradient(place, kept),
        value_and_gradient(scatter, kept),
    )


def test_a_step_needs_no_scatter(small_mae, params, inputs):
    lowered = loss_and_gradient.lower(small_mae(), params, inputs)
    assert "scatter" not in lowered.as_text()


def test_patches_off_the_grid_are_refused(small_mae, params, inputs):
    wrong = inputs._replace(patches=inputs.patches[:, :5])
    with pytest.raises(ValueError, match=r"grid \(4, 3\)"):
        small_mae().apply({"params": params}, *wrong)


def test_initialisation_is_maes(small_mae, inputs):
    model = small_mae(scan_layers=True)
    params = quick_jit(model.init)(jax.random.key(0), *inputs)["params"]
    qkv = params["encoder"]["blocks"]["block"]["qkv"]
    limit = (6 / (16 + 48)) ** 0.5
    assert 0.9 * limit < float(jnp.abs(qkv["kernel"]).max()) <= limit
    assert not qkv["bias"].any()
    assert float(params["decoder"]["mask_token"].std()) == pytest.approx(0.02, rel=0.7)
