"""Clipping and noise, of examples and of clients: sensitivities, scales, the same anywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.fed.aggregate.mean import mean
from ufm_jax.fed.algorithms.ditto import ditto
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.gradient import Batch
from ufm_jax.fed.participation import Clock
from ufm_jax.fed.placement import make_placement
from ufm_jax.fed.privacy.client_level import Adaptive, private_updates, split
from ufm_jax.fed.privacy.example_level import private_gradient
from ufm_jax.fed.reference import reference_init, reference_round
from ufm_jax.fed.updates.transform import with_transforms

SECRET = np.array([1, 2], np.uint32)
SIZES = np.array([20, 7, 12])


def slopes(params, batch, keys):
    """A loss whose gradient of each example is its row of x, whatever the parameters."""
    del keys
    return batch["x"] @ params["w"]


def train(x, sizes=None, *, on=(1, 1), rounds=1, loss=slopes, algorithm=None, **settings):
    """The federation, and its state after some rounds of SGD at rate 1."""
    sizes = [len(x)] if sizes is None else sizes
    run = Federation(
        loss,
        algorithm or fedavg(optax.sgd(1.0)),
        np.concatenate([[0], np.cumsum(sizes)]),
        settings.pop("batching", Batching(8)),
        placement=on if not isinstance(on, tuple) else make_placement(*on),
        noise=settings.pop("noise", SECRET),
        **settings,
    )
    examples = run.replicate({"x": np.asarray(x, np.float32)})
    state = run.init({"w": jnp.zeros(np.shape(x)[1])})
    for r in range(rounds):
        state, _ = run.run_round(state, examples, run.plan(r))
    return run, state


def moved(*args, **settings):
    return np.asarray(train(*args, **settings)[1].server.params["w"])


def data(rows, columns=6):
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def test_gradients_of_examples_are_clipped_by_hand():
    """Slopes 0.5, 3 and -4 at C = 1 sum to 0.5 + 1 - 1, over B = 8 whatever was drawn."""
    found = moved([[0.5], [3.0], [-4.0]], gradient=private_gradient(1.0, 0.0, 8))
    assert found == pytest.approx(-0.5 / 8)


def test_the_norm_is_that_of_all_parameters():
    found = moved([[3.0, 4.0]], gradient=private_gradient(1.0, 0.0, 1), batching=Batching(1))
    np.testing.assert_allclose(found, [-0.6, -0.8], rtol=1e-6)


def test_without_clipping_and_noise_it_is_the_mean_gradient():
    x = data(8)
    found = moved(x, gradient=private_gradient(1e9, 0.0, 8))
    np.testing.assert_allclose(found, moved(x), rtol=1e-5)


@pytest.mark.parametrize("microbatch", [1, 2, 4])
def test_microbatches_change_nothing_but_memory(microbatch):
    x = data(13)
    whole = moved(x, gradient=private_gradient(1.0, 0.5, 8))
    found = moved(x, gradient=private_gradient(1.0, 0.5, 8, microbatch))
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


def test_a_microbatch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="microbatch=3 does not divide the 8 examples"):
        moved(data(8), gradient=private_gradient(1.0, 0.0, 8, 3))


@pytest.mark.parametrize(("used", "visited"), [([], 0), ([0], 2), ([0, 1, 2], 4), ([6], 8)])
def test_microbatches_that_end_a_batch_empty_are_not_visited(used, visited):
    """Of 8 places in twos; Poisson batches have room for more than most of them hold."""
    seen = []

    def noticed(params, batch, keys):
        jax.debug.callback(lambda x: seen.append(float(x)), batch["x"][0, 0])
        return slopes(params, batch, keys)

    x = jnp.arange(8.0)[:, None] + 1
    marks = jnp.zeros(8, bool).at[jnp.array(used, int)].set(True)
    batch = Batch({"x": x}, marks, jax.random.split(jax.random.key(0), 8), marks.sum() * 1.0)
    _, gradient = private_gradient(1e9, 0.0, 8, 2).share(noticed, {"w": jnp.ones(1)}, batch)
    jax.effects_barrier()
    assert len(seen) == visited
    assert gradient["w"] == pytest.approx(sum(i + 1 for i in used) / 8)


def test_what_fills_a_partial_batch_is_chosen_away_even_where_it_is_nan():
    x = np.concatenate([np.full((8, 2), np.nan), np.ones((1, 2))])
    run, _ = train(x, [8, 1], gradient=private_gradient(1.0, 0.0, 8))
    state = run.init({"w": jnp.zeros(2)})
    examples = run.replicate({"x": x.astype(np.float32)})
    state, _ = run.run_round(state, examples, run.plan(0, [1]))
    assert np.isfinite(state.server.params["w"]).all()


def test_an_example_without_a_gradient_counts_as_zero_and_its_client_stays():
    """Leaving the client out would move the others' shares, which no clipping bounds."""

    x = [[0.5], [np.nan], [-0.25]]
    found = moved(x, gradient=private_gradient(1.0, 0.0, 8))
    assert found == pytest.approx(-(0.5 - 0.25) / 8)


def test_noise_has_the_promised_deviation():
    """z C / B = 2 * 0.5 / 8, over 40,000 numbers whose own gradient is zero."""
    found = moved(np.zeros((8, 40_000)), gradient=private_gradient(0.5, 2.0, 8))
    assert found.std() == pytest.approx(2.0 * 0.5 / 8, rel=0.02)
    assert abs(found.mean()) < 4 * 0.125 / 200


def test_noise_differs_by_step_client_round_and_secret():
    zero = np.zeros((16, 3))
    settings = {"gradient": private_gradient(1.0, 1.0, 8)}
    found = [
        moved(zero, batching=Batching(16), **settings),
        moved(zero, batching=Batching(16), rounds=2, **settings),
        moved(zero, **settings),
        moved(zero, [8, 8], **settings),
        moved(zero, batching=Batching(16), noise=SECRET + 1, **settings),
    ]
    steps = [found[0], found[1] - found[0], found[2] - found[0], found[3], found[4]]
    for i, a in enumerate(steps):
        for b in steps[i + 1 :]:
            assert np.abs(a - b).min() > 1e-4
    np.testing.assert_array_equal(found[0], moved(zero, batching=Batching(16), **settings))


def test_without_a_secret_the_noise_follows_from_the_seed():
    zero, settings = np.zeros((8, 3)), {"gradient": private_gradient(1.0, 1.0, 8), "noise": None}
    one, again, other = (moved(zero, seed=seed, **settings) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).min() > 1e-4


def curved(params, batch, keys):
    del keys
    return (batch["x"] @ params["w"] - 1) ** 2


PRIVATE = {
    "examples": {"gradient": private_gradient(0.5, 0.3, 8)},
    "clients": {
        "algorithm": with_transforms(
            fedavg(optax.sgd(0.1)), [private_updates(0.2, 0.3, 1 / 3, Adaptive(0.5, 0.2, 1.0))]
        ),
        "client_weights": "uniform",
        "aggregator": mean(renormalise=False),
    },
}


@pytest.mark.parametrize("level", PRIVATE)
def test_every_placement_equals_the_python_loop(level):
    settings = {"sizes": SIZES, "rounds": 2, "loss": curved, **PRIVATE[level]}
    x = data(SIZES.sum())
    slow, _ = train(x, **settings | {"rounds": 0})
    expected = reference_init(slow, {"w": jnp.zeros(6)})
    for r in range(2):
        expected, _ = reference_round(slow, expected, {"x": x}, slow.plan(r))
    placements = [
        make_placement(2, 2),
        make_placement(1, 8),
        make_placement(4, 1, data_parallel=2),
    ]
    for placement in placements:
        _, state = train(x, on=placement, **settings)
        known = expected.server.params["w"]
        np.testing.assert_allclose(state.server.params["w"], known, rtol=2e-5, atol=1e-6)


def test_an_algorithm_of_two_gradients_is_refused():
    algorithm = ditto(fedavg(optax.sgd(0.1)), optax.sgd(0.1), 1.0)
    with pytest.raises(ValueError, match="two gradients a step"):
        moved(data(8), algorithm=algorithm, gradient=private_gradient(1.0, 1.0, 8))


def clients(x, transform, **settings):
    algorithm = with_transforms(fedavg(optax.sgd(1.0)), [transform])
    settings |= {"client_weights": "uniform", "aggregator": mean(renormalise=False)}
    return train(x, [1] * len(x), algorithm=algorithm, **settings)


def test_updates_of_clients_are_clipped_by_hand():
    """Updates 0.5, 3 and -4 at C = 1: (0.5 + 1 - 1) / 3."""
    _, state = clients([[0.5], [3.0], [-4.0]], private_updates(1.0, 0.0, 1 / 3))
    assert float(state.server.params["w"][0]) == pytest.approx(-0.5 / 3)


def test_a_client_that_is_left_out_gives_no_weight_to_the_others():
    """Else who is refused would show in how much the others count."""
    _, state = clients([[0.5], [np.nan], [0.25]], private_updates(1.0, 0.0, 1 / 3))
    assert float(state.server.params["w"][0]) == pytest.approx(-0.75 / 3)


def test_who_does_not_answer_gives_no_weight_to_the_others():
    """Each of four clients moves the sum by 1/4, whoever of the others drops out."""
    clock = Clock(np.ones(4), np.zeros(4), dropout=0.5)
    for seed in range(5):
        run, state = clients(
            np.full((4, 1), 9.0), private_updates(1.0, 0.0, 1 / 4), clock=clock, seed=seed
        )
        came = len(run.plan(0).schedule.client)
        assert np.asarray(state.server.inner.params["w"]) == pytest.approx(-came / 4)


def test_noise_on_the_average_has_the_promised_deviation():
    """z C s = 3 * 0.5 / 4."""
    _, state = clients(np.zeros((4, 40_000)), private_updates(0.5, 3.0, 1 / 4))
    assert np.asarray(state.server.params["w"]).std() == pytest.approx(0.375, rel=0.02)


def test_the_clipping_norm_goes_to_the_quantile():
    """Norms 1 .. 10: below the median lie five of them, so C ends between 5 and 6."""
    x = np.diag(np.arange(1.0, 11.0))
    transform = private_updates(0.1, 0.0, 1 / 10, Adaptive(0.5, 0.2, 0.0))
    _, state = clients(x, transform, rounds=60)
    assert 4.9 < float(state.server.transforms[0]) < 6.1


def test_counts_are_paid_for():
    """1 / 0.5^2 = 1 / z^2 + 1 / (2 * 2)^2."""
    assert split(0.5, 2.0) ** -2 + 4.0**-2 == pytest.approx(0.5**-2)
    assert split(0.0, 0.0) == 0.0
    with pytest.raises(ValueError, match="use more than"):
        split(1.0, 0.5)


def test_one_example_moves_the_sum_by_c_at_most():
    x = data(8)
    changed = x.copy()
    changed[3] *= -1e4
    gradient = private_gradient(0.7, 0.0, 8)
    difference = moved(x, gradient=gradient) - moved(changed, gradient=gradient)
    assert np.linalg.norm(difference) * 8 <= 2 * 0.7 + 1e-5
    without = moved(x, gradient=gradient) - moved(np.delete(x, 3, 0), gradient=gradient)
    assert np.linalg.norm(without) * 8 <= 0.7 + 1e-5
