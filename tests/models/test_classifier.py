"""The classifier, and the encoder's stochastic depth and taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.models.classifier import Classifier
from ufm_jax.models.execution import Execution
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.models.vit import Encoder, stack_layers
from ufm_jax.ops.position import sincos_2d

SIZE, SHALLOW = EncoderSize(width=16, depth=3, heads=2), EncoderSize(width=16, depth=1, heads=2)
GRID = (2, 3)


@pytest.fixture(scope="module")
def patches():
    return np.random.Generator(np.random.Philox(0)).standard_normal((4, 6, 12), np.float32)


def test_a_fresh_head_is_undecided_and_float32(patches, draw_params):
    model = Classifier(SHALLOW, GRID, num_classes=5, execution=Execution(jnp.dtype("bfloat16")))
    params = draw_params(model, patches)
    head = model.bind({"params": params}).head.clone(parent=None)
    params["head"] = head.init(jax.random.key(0), jnp.zeros((1, 16)))["params"]
    logits = jax.jit(model.apply)({"params": params}, patches)
    assert logits.shape == (4, 5)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(jax.nn.softmax(logits), 0.2, atol=1e-3)


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_only_the_norm_of_the_pooled_feature_exists(patches, draw_params, pool):
    params = draw_params(Classifier(SHALLOW, GRID, num_classes=5, pool=pool), patches)
    assert ("norm" in params) == (pool == "mean")
    assert ("norm" in params["encoder"]) == (pool == "class")


def test_an_unknown_pool_is_refused(patches):
    with pytest.raises(ValueError, match="'mean' or 'class'"):
        Classifier(SIZE, GRID, 2, pool="max").init(jax.random.key(0), patches)


def test_the_mean_feature_is_the_normalised_mean_of_the_patch_tokens(patches, draw_params):
    model = Classifier(SHALLOW, GRID, num_classes=2)
    params = draw_params(model, patches)
    params["norm"] = {"scale": jnp.ones(16), "bias": jnp.zeros(16)}
    feature = model.apply({"params": params}, patches, method="features")
    tokens = Encoder(SHALLOW, GRID, final_norm=False).apply({"params": params["encoder"]}, patches)
    mean = np.asarray(tokens[:, 1:], np.float64).mean(axis=1)
    expected = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(feature, expected, atol=1e-4)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_block_outputs_are_the_tokens_between_blocks(patches, draw_params, scan_layers):
    deep = Encoder(SIZE, GRID, execution=Execution(scan_layers=scan_layers))
    params = draw_params(Encoder(SIZE, GRID), patches)
    variables = {"params": stack_layers(params) if scan_layers else params}
    taps = deep.apply(variables, patches, (0, 2), method="block_outputs")
    assert [tap.shape for tap in taps] == [(4, 7, 16)] * 2
    for tap, depth in zip(taps, (1, 3), strict=True):
        blocks = {f"block_{i}": params["blocks"][f"block_{i}"] for i in range(depth)}
        shallow = Encoder(EncoderSize(16, depth, 2), GRID, final_norm=False)
        expected = shallow.apply({"params": params | {"blocks": blocks}}, patches)
        np.testing.assert_allclose(tap, expected, atol=1e-5)


def test_a_tap_beyond_the_last_block_is_refused(patches):
    with pytest.raises(ValueError, match="from 0 to 2"):
        Encoder(SIZE, GRID).init(jax.random.key(0), patches, (3,), method="block_outputs")


@pytest.mark.parametrize("scan_layers", [False, True])
def test_stochastic_depth_is_random_in_training_and_off_otherwise(
    patches, draw_params, scan_layers
):
    model = Encoder(SIZE, GRID, drop_path=0.5, execution=Execution(scan_layers=scan_layers))
    variables = {"params": draw_params(model, patches)}

    @jax.jit
    def train(seed):
        rngs = {"drop_path": jax.random.key(seed)}
        return model.apply(variables, patches, deterministic=False, rngs=rngs)

    np.testing.assert_array_equal(train(0), train(0))
    assert not np.array_equal(train(0), train(1))
    plain = Encoder(SIZE, GRID, execution=Execution(scan_layers=scan_layers))
    np.testing.assert_array_equal(
        model.apply(variables, patches), plain.apply(variables, patches, deterministic=False)
    )


def test_stochastic_depth_never_drops_the_first_block(patches, draw_params):
    model = Encoder(SHALLOW, GRID, drop_path=0.9)
    variables = {"params": draw_params(model, patches)}
    rngs = {"drop_path": jax.random.key(0)}
    np.testing.assert_array_equal(
        model.apply(variables, patches, deterministic=False, rngs=rngs),
        model.apply(variables, patches),
    )


def test_a_learned_position_starts_as_the_fixed_one_and_reaches_every_token(patches, draw_params):
    fixed = draw_params(Encoder(SHALLOW, GRID), patches)
    model = Encoder(SHALLOW, GRID, learned_position=True)
    start = sincos_2d(16, *GRID, cls_token=True)[None]
    fresh = model.init(jax.random.key(0), patches)["params"]["pos_embed"]
    np.testing.assert_array_equal(fresh, start)
    np.testing.assert_array_equal(
        model.apply({"params": fixed | {"pos_embed": start}}, patches),
        Encoder(SHALLOW, GRID).apply({"params": fixed}, patches),
    )
    ids = jnp.array([[4, 1]] * 4)

    @jax.jit
    @jax.grad
    def gradient(pos_embed):
        tokens = model.apply({"params": fixed | {"pos_embed": pos_embed}}, patches, ids)
        return jnp.sum(jnp.square(tokens))

    touched = np.abs(gradient(start)[0]).max(axis=-1) > 0
    np.testing.assert_array_equal(touched, [True, False, True, False, False, True, False])
