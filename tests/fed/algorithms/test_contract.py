"""What every algorithm promises, whatever it does."""

from dataclasses import replace
from functools import cache

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.fed.algorithms.shown import run_shown
from ufm_jax.fed.algorithms.ditto import ditto
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.algorithms.feddyn import feddyn
from ufm_jax.fed.algorithms.fednova import fednova
from ufm_jax.fed.algorithms.fedopt import adaptive
from ufm_jax.fed.algorithms.fedprox import proximal
from ufm_jax.fed.algorithms.fedsam import sharpness_aware
from ufm_jax.fed.algorithms.mimelite import mimelite
from ufm_jax.fed.algorithms.scaffold import scaffold
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import make_placement
from ufm_jax.fed.reference import reference_init, reference_round
from ufm_jax.fed.server import first_state, server_half
from ufm_jax.fed.site import receive, site_of
from ufm_jax.fed.updates.compression import compressed, low_rank, quantise, random_k, top_k
from ufm_jax.fed.updates.transform import with_transforms
from ufm_jax.runs.checkpoint import Checkpoints

SIZES = np.array([40, 1, 17, 24, 9, 30])
LOCAL, SERVER = optax.sgd(0.05), optax.sgd(1.0)
PLAIN = fedavg(LOCAL)


def sent(compressor, error_feedback=True):
    return with_transforms(PLAIN, [compressed(compressor, error_feedback=error_feedback)])


ALGORITHMS = {
    "fedavg": PLAIN,
    "fedavgm": fedavg(LOCAL, optax.sgd(1.0, momentum=0.9)),
    "fedadam": fedavg(LOCAL, optax.chain(adaptive("adam"), optax.scale(-0.05))),
    "fedyogi": fedavg(LOCAL, optax.chain(adaptive("yogi"), optax.scale(-0.05))),
    "fedadagrad": fedavg(LOCAL, optax.chain(adaptive("adagrad"), optax.scale(-0.05))),
    "fedprox": fedavg(LOCAL, gradient=proximal(0.1)),
    "fedsam": fedavg(LOCAL, gradient=sharpness_aware(0.05)),
    "personal": fedavg(LOCAL, personal=("b1",)),
    "scaffold-I": scaffold(PLAIN, option="I"),
    "scaffold-II": scaffold(PLAIN),
    "fednova": fednova(optax.sgd(0.05, 0.5), 0.5, lr_factor=lambda progress: 1 / (1 + progress)),
    "feddyn": feddyn(PLAIN, 0.1),
    "mimelite": mimelite(optax.adam(0.01)),
    "ditto": ditto(PLAIN, LOCAL, 0.5),
    "shown": run_shown({"__name__": "shown"})["fedexp"](PLAIN),
    "top_k": sent(top_k(0.3)),
    "random_k": sent(random_k(0.3, unbiased=True), error_feedback=False),
    "quantise": sent(quantise(4, unbiased=True), error_feedback=False),
    "low_rank": sent(low_rank(1)),
}
EXACT = set(ALGORITHMS) - {"random_k", "quantise", "low_rank"}
"""Those that draw nothing at random from client to client."""


@pytest.fixture(params=ALGORITHMS)
def name(request):
    return request.param


def loss(params, batch, keys):
    noise = 0.1 * jax.vmap(jax.random.normal)(keys)
    hidden = jnp.tanh(batch["x"] @ params["w1"] + params["b1"])
    return (hidden @ params["w2"] - batch["y"] + noise) ** 2


def params():
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {"w1": draw(4, 5), "b1": draw(5), "w2": draw(5)}


def examples(sizes=SIZES):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(sum(sizes), 4)).astype(np.float32)
    return {"x": x, "y": (x @ np.array([1, -2, 3, 0.5])).astype(np.float32)}


def federation(name, sizes, **settings):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Federation(settings.pop("loss_fn", loss), ALGORITHMS[name], offsets, **settings)


@cache
def six_clients(name, lanes=2):
    """Of which the third has weight zero; one compiled round for all tests."""
    return federation(
        name,
        SIZES,
        batching=Batching(8),
        cohort_size=5,
        client_weights=(4.0, 1.0, 0.0, 2.0, 1.0, 3.0),
        placement=make_placement(2, lanes),
    )


def train(run, rounds=2, data=None, cohorts=None, state=None, begin=0):
    placed = run.replicate(examples() if data is None else data)
    state = run.init(params()) if state is None else state
    for r in range(begin, rounds):
        plan = run.plan(r, None if cohorts is None else cohorts[r])
        state, _ = run.run_round(state, placed, plan)
    return state


def assert_close(found, known, tolerance=1e-6):
    found, known = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (found, known))
    assert jnp.linalg.norm(found - known) <= tolerance * jnp.linalg.norm(known)


def test_every_placement_equals_the_python_loop_and_compiles_once(name):
    slow = six_clients(name)
    expected = reference_init(slow, params())
    for r in range(2):
        expected, _ = reference_round(slow, expected, examples(), slow.plan(r))
    for lanes in (2, 8):
        fast = six_clients(name, lanes)
        state = train(fast)
        assert_close(state.server, expected.server, 5e-6)
        for client, known in expected.clients.items():
            found = fast.client_params(state, client)
            assert_close(found, fast.algorithm.client_params(expected.server, known), 5e-6)
        assert fast.compilations == 1


@pytest.mark.parametrize("lanes", [2, 8])
def test_the_number_of_chunks_changes_no_bit(name, lanes):
    whole = six_clients(name, lanes)
    assert max(whole.plan(r).schedule.makespan for r in range(2)) > 2
    chunked = replace(whole, chunk_steps=1)
    vars(chunked)["_round"] = whole._round  # Compiled once for all tests: rows are padded to it.
    placed, state = whole.replicate(examples()), whole.init(params())
    for r in range(2):
        plan = chunked.plan(r)
        for begin in chunked.chunks(plan):
            rows = chunked.rows(plan, begin)
            missing = max(whole.steps_at_once, 2) - rows.shape[1]
            rows = np.pad(rows, ((0, 0), (0, missing), (0, 0), (0, 0)), constant_values=-1)
            state, _ = chunked.run_chunk(state, placed, plan, begin, rows)
    jax.tree.map(np.testing.assert_array_equal, state, train(whole))


def without_noise(params, batch, keys):
    del keys
    return (jnp.tanh(batch["x"] @ params["w1"] + params["b1"]) @ params["w2"] - batch["y"]) ** 2


@pytest.mark.parametrize("name", sorted(EXACT))
def test_identical_clients_equal_one_client(name):
    # One batch holds all of a client, so that its order does not matter.
    data, trained = examples([16]), []
    settings = {"loss_fn": without_noise, "batching": Batching(16, local_epochs=2)}
    for count in (1, 4):
        run = federation(name, [16] * count, placement=make_placement(1, 2), **settings)
        many = {field: np.concatenate([value] * count) for field, value in data.items()}
        trained.append(train(run, 3, many).server.params)
    assert_close(trained[1], trained[0], 2e-6)


def test_a_client_of_weight_zero_changes_nothing(name):
    run = six_clients(name)
    with_it = train(run, cohorts=[[0, 2, 3, 4]] * 2)
    without = train(run, cohorts=[[0, 3, 4]] * 2)
    # The others may be packed in another order, and so be added in another.
    assert_close(with_it.server, without.server)


def test_the_order_of_the_cohort_changes_nothing(name):
    run = six_clients(name)
    one = train(run, cohorts=[[5, 0, 3, 2], [1, 2, 4, 0]])
    other = train(run, cohorts=[[0, 2, 3, 5], [4, 2, 1, 0]])
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_restored_checkpoint_goes_on_bit_for_bit(name, tmp_path):
    run = six_clients(name)
    straight = train(run, 3)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(2, train(run, 2), 0.0)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        state = checkpoints.restore(2, run.init(params()))
    resumed = train(run, 3, state=state, begin=2)
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)


def test_clients_need_no_more_than_what_is_broadcast(name):
    """All else of the server's state is made nan: what clients send and keep stays as it was."""
    run = six_clients(name)
    state = train(run, 1)
    sent = {id(leaf) for leaf in jax.tree.leaves(run.algorithm.broadcast(state.server))}

    def hide(leaf):
        needed = id(leaf) in sent or not jnp.issubdtype(leaf.dtype, jnp.inexact)
        return leaf if needed else leaf * jnp.nan

    results = []
    for server in (state.server, jax.tree.map(hide, state.server)):
        copy = jax.tree.map(jnp.copy, state._replace(server=server))
        copy = jax.device_put(copy, jax.tree.map(lambda leaf: leaf.sharding, state))
        after, metrics = run.run_round(copy, run.replicate(examples()), run.plan(1))
        results.append((after.clients, metrics.clients.loss, metrics.clients.finite))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert run.compilations == 1


QUICK = ("scaffold-II", "personal")


@pytest.mark.parametrize(
    "name",
    [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in ALGORITHMS],
)
def test_sites_apart_and_a_server_equal_the_federation(name):
    """Each site holds its own rows alone, and the server only what they send."""
    together, asked = six_clients(name), [0, 3]
    data, algorithm = examples(), together.algorithm
    first = first_state(together, params())
    kept = dict.fromkeys(asked, algorithm.init_client(params()))
    sites = {k: site_of(together, k) for k in asked}
    server = first
    for r in range(2):
        message, updates = algorithm.broadcast(server.server), {}
        for k, site in sites.items():
            rows = slice(*together.offsets[k : k + 2])
            own = site.replicate(jax.tree.map(lambda leaf, rows=rows: leaf[rows], data))
            state = site.begin(receive(algorithm, first.server, message), kept[k])
            state, _ = site.run_round(state, own, site.plan(r))
            updates[k], kept[k] = site.end(state)
        server, _ = jax.device_get(server_half(together, server, r, asked, updates))
    state = train(together, cohorts=[asked] * 2)
    assert_close(server.server, state.server)
    for k in asked:
        found = algorithm.client_params(server.server, kept[k])
        assert_close(found, together.client_params(state, k))
