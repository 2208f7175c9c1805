"""Layer-wise learning rates against MAE's, weight decay, and a frozen encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.config.training import OptimizerConfig
from ufm_jax.finetuning.optimizers import (
    decays,
    finetune_optimizer,
    freeze_encoder,
    in_encoder,
    layer_factors,
)
from ufm_jax.interop.architecture import count_blocks
from ufm_jax.interop.torch_names import from_torch
from ufm_jax.interop.torch_rules import classifier_rules
from ufm_jax.models.classifier import Classifier
from ufm_jax.models.segmenter import Segmenter
from ufm_jax.models.sizes import EncoderSize
from ufm_jax.models.vit import stack_layers

SIZE, GRID = EncoderSize(width=8, depth=2, heads=2), (2, 2)
CONFIG = OptimizerConfig(learning_rate=0.1, scale_by_batch=False, weight_decay=0.0)


def _params(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 16)))["params"]
    return jax.tree.map(lambda a: jnp.full(a.shape, 0.5), shapes)


@pytest.fixture(scope="module")
def classifier():
    return _params(Classifier(SIZE, GRID, 2, learned_position=True))


@pytest.fixture(scope="module")
def segmenter():
    return _params(Segmenter(SIZE, GRID, 4, decoder_width=8))


def _published(shared, name):
    """A value of each parameter of the published ViT-B classifier, under our names."""
    vectors = np.load(shared / "reference" / "schedules.npz")
    axes = {"weight": 2, "bias": 1, "cls_token": 3, "pos_embed": 3}
    state = {}
    for key, value in zip(vectors["layer_decay_param_names"], vectors[name], strict=True):
        leaf = key.rpartition(".")[2]
        count = 4 if "patch_embed" in key and leaf == "weight" else axes[leaf]
        count = 1 if "norm" in key else count
        state[str(key)] = np.full((1,) * count, value, np.float32)
    pool = "mean" if "fc_norm.weight" in state else "class"
    rules = classifier_rules(count_blocks(state, "blocks"), pool, learned_position=True)
    return from_torch(state, rules)


def test_factors_are_those_of_the_published_fine_tuning(shared):
    published = _published(shared, "layer_decay_lr_scale")
    ours = layer_factors(published, 0.75)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.item(), rtol=1e-5), ours, published)


def test_weight_decay_acts_on_what_it_acts_on_in_the_published_fine_tuning(shared):
    published = _published(shared, "layer_decay_weight_decay")
    expected = jax.tree.map(lambda value: value.item() > 0, published)
    assert decays(published) == expected


def test_decoder_and_head_of_a_segmenter_learn_at_the_full_rate(segmenter):
    factors = layer_factors(segmenter, 0.5)
    for part in ("decoder", "head"):
        assert set(jax.tree.leaves(factors[part])) == {1.0}
    encoder = factors["encoder"]
    assert encoder["patch_embed"] == {"kernel": 0.125, "bias": 0.125}
    assert [encoder["blocks"][f"block_{i}"]["fc1"]["bias"] for i in range(2)] == [0.25, 0.5]


def test_stacked_blocks_have_the_factors_of_unrolled_ones(classifier):
    def full(factors, params):
        return jax.tree.map(lambda f, p: jnp.broadcast_to(f, p.shape), factors, params)

    stacked = stack_layers(classifier)
    ours = full(layer_factors(stacked, 0.7), stacked)
    expected = stack_layers(full(layer_factors(classifier, 0.7), classifier))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, expected)


def _one_step(optimizer, params):
    def step(params):
        grads = jax.tree.map(jnp.ones_like, params)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    return jax.jit(step)(params)


def test_rate_and_weight_decay_both_shrink_with_depth(classifier):
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.4, eps=0.0)
    updates = _one_step(finetune_optimizer(config, 128, layer_decay=0.5), classifier)
    # Adam's first step is 1; rate 0.1 * 128 / 256; decayed leaves add 0.4 * 0.5.
    head, first = updates["head"], updates["encoder"]["blocks"]["block_0"]["fc1"]
    np.testing.assert_allclose(head["kernel"], -0.05 * 1.2, rtol=1e-5)
    np.testing.assert_allclose(head["bias"], -0.05, rtol=1e-5)
    np.testing.assert_allclose(first["kernel"], -0.05 * 1.2 / 4, rtol=1e-5)
    np.testing.assert_allclose(first["bias"], -0.05 / 4, rtol=1e-5)
    np.testing.assert_allclose(updates["encoder"]["cls_token"], -0.05 / 8, rtol=1e-5)


def test_without_layer_decay_it_is_adamw(segmenter):
    config = OptimizerConfig(learning_rate=0.1, scale_by_batch=False, weight_decay=0.3)
    ours = _one_step(finetune_optimizer(config, 1), segmenter)
    theirs = _one_step(optax.adamw(0.1, 0.9, 0.95, weight_decay=0.3, mask=decays), segmenter)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


def test_a_frozen_encoder_stays_and_has_no_state(segmenter):
    config = OptimizerConfig(learning_rate=0.1, scale_by_batch=False, weight_decay=0.3)
    optimizer = freeze_encoder(finetune_optimizer(config, 1, layer_decay=0.5))
    updates = _one_step(optimizer, segmenter)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates["encoder"]))
    free = _one_step(finetune_optimizer(config, 1, layer_decay=0.5), segmenter)
    for part in ("decoder", "head"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates[part], free[part]
        )

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    trained = count({part: segmenter[part] for part in ("decoder", "head")})
    assert count(optimizer.init(segmenter)) < 2 * trained + 10
    chosen = in_encoder(segmenter)
    assert all(jax.tree.leaves(chosen["encoder"]))
    assert not any(jax.tree.leaves(chosen["decoder"]))


def test_a_frozen_encoder_costs_no_backward_pass(classifier):
    model, patches = Classifier(SIZE, GRID, 2, learned_position=True), jnp.ones((1, 4, 16))

    def products(freeze):
        optimizer = finetune_optimizer(CONFIG, 1)
        optimizer = freeze_encoder(optimizer) if freeze else optimizer

        def step(params):
            grads = jax.grad(lambda p: jnp.sum(model.apply({"params": p}, patches) ** 2))(params)
            return optimizer.update(grads, optimizer.init(params), params)[0]

        return jax.jit(step).lower(classifier).compile().as_text().count(" dot(")

    # Two gradients of each of the four dense layers of each block, less the first one's.
    assert products(True) <= products(False) - 7 * SIZE.depth


@pytest.mark.parametrize("layer_decay", [0.0, -0.5, 1.5])
def test_an_impossible_decay_is_named(layer_decay):
    with pytest.raises(ValueError, match=f"layer_decay={layer_decay}"):
        finetune_optimizer(CONFIG, 1, layer_decay=layer_decay)
