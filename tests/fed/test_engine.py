"""The compiled round equals the Python loop, whatever the lanes, devices, cohorts and packing."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.events import segments
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.lanes import Plan
from ufm_jax.fed.placement import make_placement
from ufm_jax.fed.reference import reference_init, reference_round

SIZES = np.array([500, 1, 37, 120, 3, 64, 16, 250, 9, 80])
PLACEMENTS = [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (8, 1), (1, 8), (2, 8)]


def _examples(sizes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(sum(sizes), 4)).astype(np.float32)
    y = (x @ np.array([1, -2, 3, 0.5]) + rng.normal(size=sum(sizes))).astype(np.float32)
    return {"x": x, "y": y}


def noisy_regression(params, batch, keys):
    """A small non-image model whose loss uses its random keys."""
    noise = 0.1 * jax.vmap(jax.random.normal)(keys)
    hidden = jnp.tanh(batch["x"] @ params["w1"] + params["b1"])
    return (hidden @ params["w2"] - batch["y"] + noise) ** 2


def _params():
    keys = jax.random.split(jax.random.key(1))
    return {
        "w1": 0.5 * jax.random.normal(keys[0], (4, 5)),
        "b1": jnp.zeros(5),
        "w2": 0.5 * jax.random.normal(keys[1], (5,)),
    }


def _federation(*, placement=(1, 1), on=None, sizes=SIZES, client_state="persist", **overrides):
    algorithm = fedavg(
        optax.sgd(0.02, momentum=0.5),
        client_state=client_state,
        lr_factor=lambda progress: 1 / (1 + progress),
    )
    settings = {
        "loss_fn": noisy_regression,
        "algorithm": algorithm,
        "offsets": np.concatenate([[0], np.cumsum(sizes)]),
        "batching": Batching(16),
        "placement": on or make_placement(*placement),
    } | overrides
    return Federation(**settings)


def _train(federation, rounds=2, cohorts=None, sizes=SIZES):
    examples = _examples(sizes)
    on_device, state = federation.replicate(examples), federation.init(_params())
    results = []
    for r in range(rounds):
        plan = federation.plan(r, None if cohorts is None else cohorts[r])
        state, metrics = federation.run_round(state, on_device, plan)
        results.append(federation.results(plan, metrics))
    return state, results


def _distance(ours, theirs):
    """Relative Euclidean distance of two pytrees."""
    ours, theirs = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (ours, theirs))
    return float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs))


def _reference(federation, rounds=2, cohorts=None):
    state, losses = reference_init(federation, _params()), []
    for r in range(rounds):
        plan = federation.plan(r, None if cohorts is None else cohorts[r])
        state, loss = reference_round(federation, state, _examples(SIZES), plan)
        losses.append(loss)
    return state.server, losses


@pytest.fixture(scope="module", params=["persist", "reset", "average"])
def oracle(request):
    federation = _federation(client_state=request.param, cohort_size=7)
    return request.param, *_reference(federation)


@pytest.mark.parametrize("data_parallel", [2, 4])
def test_batches_split_over_devices_equal_the_python_loop(oracle, data_parallel):
    client_state, server, losses = oracle
    placement = make_placement(8, 2, data_parallel=data_parallel)
    federation = _federation(client_state=client_state, cohort_size=7, on=placement)
    assert placement.num_devices == 8 // data_parallel
    state, results = _train(federation)
    assert _distance(state.server.params, server.params) < 1e-6
    for round_results, expected in zip(results, losses, strict=True):
        assert {r.client: r.loss for r in round_results} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_round_equals_the_python_loop(oracle, placement):
    client_state, server, losses = oracle
    federation = _federation(client_state=client_state, cohort_size=7, placement=placement)
    state, results = _train(federation)
    assert _distance(state.server.params, server.params) < 1e-6
    for round_results, expected in zip(results, losses, strict=True):
        assert {r.client: r.loss for r in round_results} == pytest.approx(expected, rel=1e-4)


def test_shuffled_cohorts_give_the_same_bits():
    cohorts = [[7, 1, 4, 0, 9], [2, 3, 0, 8, 5]]
    federation = _federation(placement=(2, 2), cohort_size=5)
    one, _ = _train(federation, cohorts=cohorts)
    other, _ = _train(federation, cohorts=[cohort[::-1] for cohort in cohorts])
    jax.tree.map(np.testing.assert_array_equal, one.server, other.server)


@pytest.mark.parametrize("lanes", [2, 8])
@pytest.mark.parametrize("chunk_steps", [None, 5])
def test_ten_cohorts_of_different_sizes_compile_once(lanes, chunk_steps):
    federation = _federation(placement=(2, lanes), cohort_size=10, chunk_steps=chunk_steps)
    rng = np.random.default_rng(0)
    cohorts = [rng.choice(10, size=n, replace=False) for n in range(1, 11)]
    _train(federation, rounds=10, cohorts=cohorts)
    assert federation.compilations == 1


def test_nothing_moves_between_host_and_device_inside_a_round():
    federation = _federation(placement=(2, 1))
    examples, state = federation.replicate(_examples(SIZES)), federation.init(_params())
    state, _ = federation.run_round(state, examples, federation.plan(0))
    with jax.transfer_guard("disallow"):
        state, _ = federation.run_round(state, examples, federation.plan(1))
        jax.block_until_ready(state)
    # The guard is in force: an implicit transfer is refused.
    plan = federation.plan(2)
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="transfer"):
        federation._round(
            state,
            examples,
            Plan(
                np.int32(2),
                np.float32(1),
                federation.noise_words,
                federation.noise_words,
                (plan.events.client.ravel(), plan.events.weight.ravel()),
                plan.events,
                segments(plan.schedule, federation.limits, 0, plan.schedule.makespan),
                np.int32(0),
                np.bool_(True),
                plan.rows,
                (),
            ),
        )


def test_another_seed_is_the_same_program():
    texts = []
    for seed in (0, 1):
        federation = _federation(seed=seed)
        state = federation.state_shapes(_params())
        lowered = federation.lower(state, _examples(SIZES), federation.plan(0))
        texts.append(lowered.as_text())
    assert texts[0] == texts[1]


def test_the_old_state_is_donated():
    federation = _federation()
    examples, state = federation.replicate(_examples(SIZES)), federation.init(_params())
    before = state.server.params["w1"]
    federation.run_round(state, examples, federation.plan(0))
    assert before.is_deleted()


def test_identical_clients_equal_one_client():
    def mean_of_all(params, batch, keys):
        del keys
        return (batch["x"] @ params["w1"].sum(1) - batch["y"]) ** 2

    data = _examples([24])
    many = {name: np.concatenate([value] * 6) for name, value in data.items()}
    trained = []
    for count, examples in ((1, data), (6, many)):
        offsets = 24 * np.arange(count + 1)
        # One batch holds all of a client, so that its order does not matter.
        federation = Federation(
            mean_of_all,
            fedavg(optax.sgd(0.02)),
            offsets,
            Batching(24, local_epochs=3),
            placement=make_placement(1, 2),
        )
        state = federation.init(_params())
        placed = federation.replicate(examples)
        for r in range(3):
            state, _ = federation.run_round(state, placed, federation.plan(r))
        trained.append(state.server.params)
    assert _distance(trained[1], trained[0]) < 1e-6


def test_a_client_of_weight_zero_changes_nothing():
    sizes = np.array([40, 30, 20])
    weighted = _federation(sizes=sizes, client_weights=[40.0, 30.0, 0.0])
    state, _ = _train(weighted, sizes=sizes, cohorts=[[0, 1, 2]] * 2)
    without, _ = _train(weighted, sizes=sizes, cohorts=[[0, 1]] * 2)
    jax.tree.map(np.testing.assert_array_equal, state.server, without.server)


@pytest.mark.parametrize("placement", [(1, 1), (2, 2), (1, 8)])
def test_a_client_that_yields_nan_is_left_out_and_named(placement):
    on = make_placement(*placement)
    federation = _federation(on=on)
    examples = _examples(SIZES)
    poisoned = int(federation.offsets[3])
    examples["y"][poisoned] = np.nan
    on_device, state = federation.replicate(examples), federation.init(_params())
    plan = federation.plan(0)
    before = jax.tree.map(np.asarray, state.clients)
    state, metrics = federation.run_round(state, on_device, plan)
    results = federation.results(plan, metrics)
    assert [r.client for r in results if not r.finite] == [3]

    healthy = _federation(on=on)
    expected = healthy.init(_params())
    others = [k for k in range(len(SIZES)) if k != 3]
    expected, _ = healthy.run_round(
        expected, healthy.replicate(_examples(SIZES)), healthy.plan(0, others)
    )
    assert _distance(state.server.params, expected.server.params) < 1e-6
    # Its own state is as it was before the round.
    place = int(np.flatnonzero(plan.events.client.ravel() == 3)[-1])
    device = place // plan.events.client.shape[1]
    slot = plan.events.slot.ravel()[place] + device * federation.slots[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[slot], b[slot]), state.clients, before
    )


def test_the_server_stays_where_every_client_is_refused():
    federation = _federation(sizes=np.array([20, 30]))
    examples = _examples([20, 30])
    examples["y"][:] = np.inf
    state = federation.init(_params())
    state, metrics = federation.run_round(state, federation.replicate(examples), federation.plan(0))
    jax.tree.map(np.testing.assert_array_equal, state.server.params, _params())
    assert float(metrics.update_norm) == 0


@pytest.mark.parametrize("lanes", [2, 8])
def test_a_client_moves_from_where_it_began_not_from_the_server(lanes):
    algorithm = fedavg(
        optax.sgd(0.02), personal=(".*",), lr_factor=lambda progress: 1.0 * (progress < 1)
    )
    federation = _federation(algorithm=algorithm, placement=(1, lanes))
    _, (first, second) = _train(federation)
    assert all(client.update_norm > 0 for client in first)
    assert all(client.update_norm == 0 for client in second)


@pytest.mark.parametrize("data_parallel", [1, 2])
def test_what_fills_a_partial_batch_never_comes_from_another_client(data_parallel):
    """Client 1 has one example; client 0, whose rows come first, is all nan."""
    on = make_placement(2, data_parallel=data_parallel)
    federation = _federation(sizes=np.array([8, 1]), on=on)
    examples = _examples([8, 1])
    examples["x"][:8] = np.nan
    plan = federation.plan(0, [1])
    state, metrics = federation.run_round(
        federation.init(_params()), federation.replicate(examples), plan
    )
    assert [r.finite for r in federation.results(plan, metrics)] == [True]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.server.params))


def test_a_loss_that_is_not_one_number_an_example_is_refused():
    federation = _federation(loss_fn=lambda params, batch, keys: jnp.float32(0))
    with pytest.raises(ValueError, match="one loss an example"):
        _train(federation, rounds=1)


def test_a_client_without_a_full_batch_is_refused_where_partial_ones_are_dropped():
    with pytest.raises(ValueError, match="client 1 has 1 examples"):
        _federation(batching=Batching(16, partial_batch="drop"))


def test_a_batch_that_cannot_be_split_evenly_is_refused():
    with pytest.raises(ValueError, match="batch_size=16 cannot be split evenly"):
        _federation(on=make_placement(3, data_parallel=3))


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("devices", {"num_devices": 9}),
        ("lanes", {"lanes": 0}),
        ("data_parallel", {"data_parallel": 3}),
    ],
)
def test_an_impossible_placement_is_refused(key, settings):
    with pytest.raises(ValueError, match=f"placement.{key}="):
        make_placement(**settings)
