"""Compressors: what they keep, what they cost, and that error feedback loses nothing."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.fed.algorithms.quadratics import run_to
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.algorithms.scaffold import scaffold
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.updates.compression import compressed, low_rank, quantise, random_k, top_k
from ufm_jax.fed.updates.transform import Transform, with_transforms

COMPRESSORS = {
    "top_k": top_k(0.25),
    "random_k": random_k(0.25, unbiased=True),
    "quantise": quantise(4, unbiased=True),
    "low_rank": low_rank(2),
}
UNBIASED = ("random_k", "quantise")


def leaf(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@cache
def approximation(name):
    return jax.jit(COMPRESSORS[name].approximate)


def test_top_k_keeps_the_largest():
    values = jnp.array([[0.1, -3.0, 0.2, 1.0], [2.0, -0.3, 0.0, 0.5]])
    found = approximation("top_k")(values, jax.random.key(0))
    np.testing.assert_array_equal(found, [[0, -3, 0, 0], [2, 0, 0, 0]])


def test_random_k_draws_as_many_and_others_each_time():
    values = leaf(64) + 10
    first, second = (approximation("random_k")(values, jax.random.key(k)) for k in (0, 1))
    assert (first != 0).sum() == (second != 0).sum() == 16
    assert not np.array_equal(first != 0, second != 0)
    kept = np.flatnonzero(first)
    np.testing.assert_allclose(first[kept], 4 * values[kept], rtol=1e-6)


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_compressors_are_right_on_average(name):
    values = leaf(32)
    draws = jax.vmap(lambda key: COMPRESSORS[name].approximate(values, key))(
        jax.random.split(jax.random.key(0), 4000)
    )
    error = np.abs(np.asarray(draws.mean(axis=0) - values))
    assert (error < 5 * np.asarray(draws.std(axis=0)) / np.sqrt(4000) + 1e-6).all()


def test_quantised_values_are_steps_of_the_grid_next_to_the_value():
    values = leaf(100)
    unit = float(jnp.abs(values).max()) / 7
    steps = np.asarray(approximation("quantise")(values, jax.random.key(0)) / unit)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert (np.abs(steps - values / unit) <= 1 + 1e-4).all()
    assert np.abs(steps).max() <= 7 + 1e-4, "within 4 bits with a sign"


def test_zero_comes_back():
    for name in COMPRESSORS:
        found = approximation(name)(jnp.zeros((16, 16)), jax.random.key(0))
        np.testing.assert_array_equal(found, 0)


def test_low_rank_gives_back_a_matrix_of_that_rank():
    thin = leaf(20, 2) @ leaf(2, 30)
    stacked = jnp.stack([thin, 3 * thin])
    found = approximation("low_rank")(stacked, jax.random.key(0))
    np.testing.assert_allclose(found, stacked, atol=1e-4)
    np.testing.assert_array_equal(approximation("low_rank")(leaf(30), jax.random.key(0)), leaf(30))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("top_k", (10, 10), 25 * (4 + 4)),
        ("random_k", (10, 10), 25 * 4),
        ("quantise", (10, 10), 50 + 4),
        ("low_rank", (3, 20, 30), 3 * 2 * 50 * 4),
        ("low_rank", (3, 3), 9 * 4),
        ("low_rank", (30,), 30 * 4),
        ("top_k", (2,), 1 * 8),
    ],
)
def test_bytes_are_what_a_message_takes(name, shape, expected):
    assert COMPRESSORS[name].num_bytes(leaf(*shape)) == expected


def test_error_feedback_sends_in_the_end_all_that_was_left_out():
    """A slope of 1 in ten coordinates, one of which is sent a round: after R rounds the sum of
    what was sent and what is kept is R times the slope."""

    def slopes(params, batch, keys):
        del keys
        return batch["x"] @ params["w"]

    transform = compressed(top_k(0.1), error_feedback=True)
    algorithm = with_transforms(fedavg(optax.sgd(1.0)), [transform])
    run = Federation(slopes, algorithm, [0, 1], Batching(1))
    examples, state = run.replicate({"x": np.ones((1, 10), np.float32)}), None
    state = run.init({"w": jnp.zeros(10)})
    for r in range(7):
        state, _ = run.run_round(state, examples, run.plan(r))
    kept = state.clients.transforms[0].pseudo_gradient["w"][0]
    np.testing.assert_allclose(kept - state.server.params["w"], 7.0)
    assert (state.server.params["w"] != 0).sum() >= 6


@pytest.mark.parametrize("bits", [2, 3])
def test_what_few_bits_leave_out_does_not_grow(bits):
    compressor = quantise(bits, unbiased=False)
    gradient = jax.random.normal(jax.random.key(0), (10_000,))
    memory = jnp.zeros_like(gradient)
    for r in range(100):
        wanted = memory + gradient
        memory = wanted - compressor.approximate(wanted, jax.random.key(r))
    assert jnp.linalg.norm(memory) < 2 * jnp.linalg.norm(gradient)


@pytest.mark.parametrize("name", ["top_k", "quantise", "low_rank"])
def test_training_reaches_the_optimum_through_it(name):
    transform = compressed(COMPRESSORS[name], error_feedback=name != "quantise")
    algorithm = with_transforms(scaffold(fedavg(optax.sgd(0.1))), [transform])
    two = {"a": [1.0, 4.0], "b": [0.0, 1.0], "start": 5.0}
    assert run_to(algorithm, **two, rounds=80, local_steps=10) == pytest.approx(0.8, abs=2e-3)


def test_traffic_counts_both_ways():
    params = {"w": jnp.zeros((10, 10)), "b": jnp.zeros(10)}
    dense, control = 110 * 4, 110 * 4
    cases = [
        (fedavg(optax.sgd(0.1)), (dense, dense)),
        (fedavg(optax.sgd(0.1), personal=("b",)), (400, 400)),
        (scaffold(fedavg(optax.sgd(0.1))), (dense + control, dense + control)),
        (
            with_transforms(
                fedavg(optax.sgd(0.1)),
                [compressed(quantise(8, unbiased=True), error_feedback=False)],
            ),
            (dense, 100 + 4 + 10 + 4),
        ),
    ]
    for algorithm, expected in cases:
        run = Federation(lambda *_: None, algorithm, [0, 1], Batching(1))
        assert run.traffic(params) == expected


def test_the_chain_comes_back_in_reverse():
    """On the way up x -> 2 x, then + 1; on the way down - 1, then / 2: as if nothing was there."""

    def linear(up, down):
        return Transform(
            lambda server, client, update, turn: (jax.tree.map(up, update), client, ()),
            lambda server, mean, report, key: (server, jax.tree.map(down, mean)),
        )

    chain = [linear(lambda x: 2 * x, lambda x: x / 2), linear(lambda x: x + 1, lambda x: x - 1)]
    settings = {"a": [1.0, 4.0], "b": [0.0, 1.0], "start": 5.0, "rounds": 3, "local_steps": 2}
    plain = run_to(fedavg(optax.sgd(0.1)), **settings)
    found = run_to(with_transforms(fedavg(optax.sgd(0.1)), chain), **settings)
    assert found == pytest.approx(plain, abs=1e-6)
