"""Names and layouts of PyTorch's state dicts."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from ufm_jax.interop.architecture import describe
from ufm_jax.interop.convert import params_from_torch, params_to_torch
from ufm_jax.interop.torch_names import from_torch
from ufm_jax.interop.torch_rules import mae_rules
from ufm_jax.models.classifier import Classifier
from ufm_jax.models.mae import MAE
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.models.vit import Encoder, stack_layers

SIZE, GRID, PATCH, CHANNELS = EncoderSize(width=8, depth=2, heads=2), (2, 3), 4, 3
FEATURES = PATCH**2 * CHANNELS


MAE_RULES = mae_rules(depth=2, decoder_depth=1)


def random_like(shapes):
    rng = np.random.Generator(np.random.Philox(0))
    return jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), shapes)


@pytest.fixture
def mae_params():
    model = MAE(SIZE, GRID, decoder_width=4, decoder_depth=1, decoder_heads=2)
    ids = np.arange(6)[None]
    patches = np.zeros((1, 6, FEATURES), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), patches, ids[:, :2], ids)
    return random_like(shapes["params"])


@pytest.fixture
def state(mae_params):
    return params_to_torch(mae_params, GRID)


def test_mae_round_trip_is_bitwise(mae_params, state):
    restored = params_from_torch(state, describe(state, GRID))
    assert jax.tree.structure(restored) == jax.tree.structure(mae_params)
    jax.tree.map(np.testing.assert_array_equal, restored, mae_params)


@pytest.mark.parametrize("learned_position", [False, True])
@pytest.mark.parametrize("pool", ["mean", "class"])
def test_classifier_round_trip_is_bitwise(pool, learned_position):
    model = Classifier(SIZE, GRID, num_classes=3, pool=pool, learned_position=learned_position)
    patches = np.zeros((1, 6, FEATURES), np.float32)
    params = random_like(jax.eval_shape(model.init, jax.random.key(0), patches)["params"])
    state = params_to_torch(params, GRID)
    assert ("fc_norm.weight" in state) == (pool == "mean")
    found = describe(state, GRID)
    assert found.pool == pool
    found = replace(found, learned_position=learned_position)
    restored = params_from_torch(state, found)
    jax.tree.map(np.testing.assert_array_equal, restored, params)


def test_the_encoder_of_a_mae_loads_alone(mae_params, state):
    encoder = {k: v for k, v in state.items() if not k.startswith(("decoder", "mask_token"))}
    params = params_from_torch(encoder, describe(encoder, GRID))["encoder"]
    jax.tree.map(np.testing.assert_array_equal, params, mae_params["encoder"])
    tokens = jax.eval_shape(
        Encoder(SIZE, GRID).apply, {"params": params}, np.zeros((1, 6, FEATURES), np.float32)
    )
    assert tokens.shape == (1, 7, 8)


def test_the_patch_kernel_is_the_convolution(mae_params, state):
    """One patch through the convolution's sum, by hand, against the row of pixels."""
    pixels = np.random.Generator(np.random.Philox(1)).standard_normal((PATCH, PATCH, CHANNELS))
    weight = state["patch_embed.proj.weight"]
    assert weight.shape == (8, CHANNELS, PATCH, PATCH)
    convolved = np.einsum("dcpq,pqc->d", weight, pixels)
    kernel = mae_params["encoder"]["patch_embed"]["kernel"]
    np.testing.assert_allclose(pixels.reshape(-1) @ kernel, convolved, rtol=1e-5)


def test_missing_and_unexpected_names_are_all_listed(state):
    del state["blocks.0.attn.qkv.bias"], state["decoder_norm.weight"]
    state |= {"head.weight": np.zeros((2, 8)), "rel_pos": np.zeros(1)}
    with pytest.raises(ValueError) as error:
        from_torch(state, MAE_RULES, GRID)
    names = ("blocks.0.attn.qkv.bias", "decoder_norm.weight", "head.weight", "rel_pos")
    assert all(name in str(error.value) for name in names)


def test_a_hole_in_the_blocks_is_missing_names(state):
    holed = {k: v for k, v in state.items() if not k.startswith("blocks.0.")}
    with pytest.raises(ValueError, match=r"missing .*blocks\.0\.attn\.proj\.bias"):
        from_torch(holed, MAE_RULES, GRID)


def test_a_learned_position_embedding_is_refused_where_a_fixed_one_is_meant(state):
    state["pos_embed"] = np.zeros_like(state["pos_embed"])
    with pytest.raises(ValueError, match=r"pos_embed: differs .* learned_position=True"):
        from_torch(state, MAE_RULES, GRID)


def test_a_grid_that_is_not_square_must_be_given(state):
    with pytest.raises(ValueError, match="give `grid`"):
        from_torch(state, MAE_RULES)


def test_an_array_of_the_wrong_rank_is_named(state):
    state["decoder_embed.weight"] = state["decoder_embed.weight"].ravel()
    with pytest.raises(ValueError, match=r"decoder_embed\.weight: shape"):
        from_torch(state, MAE_RULES, GRID)


def test_stacked_layers_are_refused_with_the_remedy(mae_params):
    with pytest.raises(ValueError, match="unstack_layers"):
        params_to_torch(stack_layers(mae_params), GRID)
