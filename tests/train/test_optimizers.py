"""Schedules and optimisers: the recipe's values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.config.training import OptimizerConfig
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import tree_bytes
from ufm_jax.train.optimizers import decays, make_optimizer, warmup_cosine


def test_schedule_is_that_of_the_published_run(shared):
    vectors = np.load(shared / "reference" / "schedules.npz")
    factor = jax.vmap(warmup_cosine(300, 40))(jnp.asarray(vectors["lr_epochs"], jnp.float32))
    np.testing.assert_allclose(3.75e-5 * factor, vectors["lr_values"], rtol=1e-4, atol=1e-11)


def test_schedule_rises_to_one_and_falls_to_its_minimum():
    factor = warmup_cosine(100, 10, min_factor=0.2)
    values = [float(factor(jnp.float32(p))) for p in (0, 5, 10, 55, 100)]
    assert values == pytest.approx([0, 0.5, 1, 0.6, 0.2])


def test_schedule_without_warm_up_starts_at_one():
    assert float(warmup_cosine(10, 0)(jnp.float32(0))) == 1


def test_adamw_equals_optax():
    config = OptimizerConfig(learning_rate=0.1, scale_by_batch=False, weight_decay=0.3)
    params = {"dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}}
    grads = jax.tree.map(lambda p: 0.3 * p + 1, params)
    ours = make_optimizer(config, 64)
    theirs = optax.adamw(0.1, b1=0.9, b2=0.95, weight_decay=0.3, mask=decays)
    state, other = ours.init(params), theirs.init(params)
    for _ in range(3):
        updates, state = ours.update(grads, state, params)
        expected, other = theirs.update(grads, other, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_a_bfloat16_moment_halves_its_bytes_and_hardly_changes_an_update(name):
    params = {"kernel": jnp.linspace(-1, 1, 64)}
    updates, kept = [], []
    for dtype in ("float32", "bfloat16"):
        optimizer = make_optimizer(OptimizerConfig(name=name, moment_dtype=dtype), 64)
        state = optimizer.init(params)
        for scale in (1.0, 0.7, 1.3):
            update, state = optimizer.update({"kernel": scale * params["kernel"]}, state, params)
        updates.append(update["kernel"])
        kept.append(tree_bytes(state) - 4)  # Without the counter.
    assert kept == [2 * 4 * 64, (2 + 4) * 64]
    np.testing.assert_allclose(*updates, rtol=2e-2)


@pytest.mark.parametrize("name", ["sgd", "yogi", "adagrad", "fedadam"])
def test_other_optimisers_keep_float32(name):
    with pytest.raises(ConfigError, match=f"moment_dtype='bfloat16': name='{name}' keeps float32"):
        OptimizerConfig(name=name, moment_dtype="bfloat16")


def test_biases_and_norms_do_not_decay_even_when_stacked():
    params = {"norm": {"scale": jnp.ones((4, 8)), "bias": jnp.ones((4, 8))}, "kernel": jnp.ones(2)}
    assert decays(params) == {"norm": {"scale": False, "bias": False}, "kernel": True}


def test_rate_is_scaled_by_the_batch():
    config = OptimizerConfig(name="sgd", learning_rate=1.0, betas=(0.0, 0.0), weight_decay=0.0)
    optimizer = make_optimizer(config, 64)
    updates, _ = optimizer.update({"w": jnp.ones(1)}, optimizer.init({"w": jnp.ones(1)}))
    assert float(updates["w"][0]) == -0.25


def test_gradients_are_clipped_by_their_global_norm():
    config = OptimizerConfig(
        name="sgd",
        learning_rate=1.0,
        scale_by_batch=False,
        betas=(0.0, 0.0),
        weight_decay=0.0,
        clip_norm=1.0,
    )
    optimizer = make_optimizer(config, 1)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    updates, _ = optimizer.update(
        {"a": jnp.array([3.0]), "b": jnp.array([4.0])}, optimizer.init(params)
    )
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd", "adam", "yogi", "adagrad"])
def test_every_optimizer_descends(name):
    config = OptimizerConfig(name=name, learning_rate=0.1, scale_by_batch=False)
    optimizer = make_optimizer(config, 1)
    params = {"w": jnp.array([1.0, -1.0])}
    state = optimizer.init(params)
    for _ in range(20):
        updates, state = optimizer.update(params, state, params)  # gradient of |w|^2 / 2
        params = optax.apply_updates(params, updates)
    assert float(jnp.linalg.norm(params["w"])) < 1.0


def test_nesterov_is_that_of_the_paper_by_hand():
    """m = 0.9 m + g; the step is 0.9 m + g: for g = 1 twice, 1.9 and then 0.9 * 1.9 + 1."""
    config = OptimizerConfig(
        name="sgd", learning_rate=0.7, scale_by_batch=False, betas=(0.9, 0.0), nesterov=True,
        weight_decay=0.0,
    )  # fmt: skip
    optimizer = make_optimizer(config, 64)
    params = {"w": jnp.zeros(())}
    state = optimizer.init(params)
    for expected in (1.9, 2.71):
        update, state = optimizer.update({"w": jnp.ones(())}, state, params)
        assert float(update["w"]) == pytest.approx(-0.7 * expected)


@pytest.mark.parametrize("wrong", [{"name": "adamw"}, {"name": "sgd", "betas": (0.0, 0.0)}])
def test_nesterov_without_sgds_momentum_is_refused(wrong):
    with pytest.raises(ConfigError, match="nesterov=True"):
        OptimizerConfig(nesterov=True, **wrong)


def test_muon_makes_the_steps_of_the_blocks_matrices_orthogonal_stacked_or_not():
    """All singular values of a step are alike, to what five iterations give; others are Adam's."""
    config = OptimizerConfig(
        name="muon", learning_rate=1.0, scale_by_batch=False, betas=(0.95, 0.95), weight_decay=0.0
    )
    optimizer, rng = make_optimizer(config, 64), np.random.default_rng(0)
    kernels = jnp.asarray(rng.normal(size=(3, 8, 16)), jnp.float32) * jnp.logspace(0, -2, 16)
    blocks = {"blocks": {"block": {"kernel": kernels, "bias": kernels[:, 0]}}}
    apart = {"blocks": {f"block_{n}": {"kernel": k, "bias": k[0]} for n, k in enumerate(kernels)}}
    outer = {"patch_embed": {"kernel": kernels[0]}}
    steps = {}
    for name, params in (("stacked", blocks | outer), ("apart", apart | outer)):
        steps[name], _ = optimizer.update(params, optimizer.init(params), params)
    stacked = steps["stacked"]["blocks"]["block"]["kernel"]
    for n, step in enumerate(stacked):
        np.testing.assert_allclose(
            step, steps["apart"]["blocks"][f"block_{n}"]["kernel"], rtol=1e-4, atol=1e-6
        )
        values = np.linalg.svd(np.asarray(step), compute_uv=False)
        assert values.max() < 2.5 * values.min()
        # 0.2 of root mean square, as Adam's steps are taken to have, and against the gradient.
        assert np.sqrt(np.square(step).mean()) == pytest.approx(0.2, rel=0.35)
        assert float((step * kernels[n]).sum()) < 0
    adam = optax.scale_by_adam(0.95, 0.95, nesterov=True)
    expected, _ = adam.update(outer, adam.init(outer))
    for name in steps:
        np.testing.assert_allclose(
            steps[name]["patch_embed"]["kernel"], -expected["patch_embed"]["kernel"], rtol=1e-5
        )
