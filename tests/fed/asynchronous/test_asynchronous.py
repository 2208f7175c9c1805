"""FedBuff and FedAsync against a loop that lives through the events one by one."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.fed.algorithms.fedavg import Update, fedavg
from ufm_jax.fed.algorithms.fedprox import proximal
from ufm_jax.fed.asynchronous.algorithm import Asynchronous, polynomial
from ufm_jax.fed.asynchronous.federation import AsyncFederation
from ufm_jax.fed.asynchronous.timeline import Timeline
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.keys import example_keys, fold
from ufm_jax.fed.participation import Clock, drawn_clock
from ufm_jax.fed.placement import make_placement
from ufm_jax.fed.reference import batches_of

SIZES = np.array([33, 5, 17, 24, 9, 40, 12, 20])
WAVES = 6
WAYS = {
    "fedbuff": (Asynchronous(5, 3, polynomial(0.5)), optax.sgd(0.8)),
    "fedasync": (Asynchronous(4, 1, polynomial(1.0), towards_client=True), optax.sgd(0.6)),
    "momentum": (Asynchronous(6, 2, polynomial(0.0)), optax.sgd(0.5, momentum=0.9)),
}


def loss(params, batch, keys):
    noise = 0.1 * jax.vmap(jax.random.normal)(keys)
    return (jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"] + noise) ** 2


def params():
    rng = np.random.default_rng(1)
    return {
        "w": jnp.asarray(0.5 * rng.normal(size=(4, 5)), jnp.float32),
        "v": jnp.asarray(0.5 * rng.normal(size=5), jnp.float32),
    }


def examples():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SIZES.sum(), 4)).astype(np.float32)
    return {"x": x, "y": x.sum(1).astype(np.float32)}


def clock(dropout=0.2):
    return drawn_clock(
        len(SIZES),
        step_seconds=1.0,
        spread=0.8,
        latency=0.5,
        jitter=0.2,
        dropout=dropout,
        deadline=np.inf,
        seed=0,
    )


def algorithm(server):
    return fedavg(
        optax.sgd(0.05, momentum=0.5),
        server,
        gradient=proximal(0.1),
        lr_factor=lambda progress: 1 / (1 + 0.1 * progress),
    )


def federation(way, server, placement=None, **settings):
    return AsyncFederation(
        loss,
        algorithm(server),
        np.concatenate([[0], np.cumsum(SIZES)]),
        Batching(8),
        clock=settings.pop("clock", clock()),
        placement=placement or make_placement(1),
        way=way,
        **settings,
    )


def train(run, data=None, waves=WAVES):
    state, placed = run.init(params()), run.replicate(data or examples())
    results = []
    for r in range(waves):
        plan = run.plan(r)
        state, metrics = run.run_round(state, placed, plan)
        results.append(run.results(plan, metrics))
    return state, results


def trained(run, start, server, data, plan, client):
    """Where a client ends that starts at ``start``, one step after another."""
    base, root = run.algorithm, jax.random.key(run.seed)
    given = server._replace(params=start)
    local, batches = base.start(given, base.init_client(start)), batches_of(plan, client)
    for s, rows in enumerate(batches):
        keys = example_keys(fold(root, plan.round_index, client, s), jnp.arange(len(rows)))
        batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], data)
        progress = jnp.float32(plan.round_index + (s + 0.5) / len(batches))
        grad_fn = jax.value_and_grad(lambda p, b=batch, k=keys: loss(p, b, k).mean())
        local, _ = base.step(given, local, grad_fn, progress)
    return local.params


def lived_through(run, way, data):
    """The server after each arrival in turn: copies of parameters, a list, and no devices."""
    base = run.algorithm
    server, waiting = base.init_server(params()), []
    starts, ends = [server.params] * way.concurrency, [None] * way.concurrency
    for r in range(WAVES):
        wave, plan = run.timeline.wave(r), run.plan(r)
        for job in wave.jobs:
            ends[job.slot] = trained(run, starts[job.slot], server, data, plan, job.client)
        for arrival in wave.arrivals:
            slot = arrival.job.slot
            if not arrival.lost:
                anchor = server.params if way.towards_client else starts[slot]
                scale = way.staleness(arrival.staleness)
                waiting.append(jax.tree.map(lambda a, b, s=scale: s * (a - b), anchor, ends[slot]))
            if len(waiting) == way.buffer:
                mean = jax.tree.map(lambda *moved: sum(moved) / len(moved), *waiting)
                server = base.update_server(server, Update(mean, ()), None)
                waiting = []
            starts[slot] = server.params
    return server.params


@pytest.fixture(scope="module", params=WAYS)
def oracle(request):
    way, server = WAYS[request.param]
    return request.param, lived_through(federation(way, server), way, examples())


@pytest.mark.parametrize(("devices", "lanes"), [(1, 1), (2, 2), (1, 8)])
def test_waves_equal_the_events_one_by_one(oracle, devices, lanes):
    name, expected = oracle
    run = federation(*WAYS[name], make_placement(devices, lanes))
    state, _ = train(run)
    found, known = (
        jax.flatten_util.ravel_pytree(tree)[0] for tree in (state.server.params, expected)
    )
    assert jnp.linalg.norm(found - known) < 5e-6 * jnp.linalg.norm(known)
    assert run.compilations == 1


def test_all_in_flight_and_all_waited_for_is_fedavg():
    """Where nobody is stale, a server update is a round: here of quadratics, by hand.

    Clients go from 4 to 4 - 0.5 * 4 = 2 and to 4 - 0.5 * (4 - 1) = 2.5: the mean is 2.25.
    """

    def quadratic(params, batch, keys):
        del keys
        return (params["w"] - batch["b"]) ** 2 / 2

    run = AsyncFederation(
        quadratic,
        fedavg(optax.sgd(0.5)),
        [0, 1, 2],
        Batching(1),
        clock=Clock(np.ones(2), np.zeros(2)),
        way=Asynchronous(2, 2, polynomial(0.5)),
    )
    state, data = run.init({"w": jnp.array(4.0)}), run.replicate({"b": jnp.array([0.0, 1.0])})
    state, _ = run.run_round(state, data, run.plan(0))
    assert float(state.server.params["w"]) == 2.25


def test_staleness_is_weighted_by_hand():
    """Client 0 takes 1 s, client 1 takes 2.5 s; each goes from w to w / 2; M = 1.

    At 1 s: w = 4 - (4 - 2) = 2. At 2 s: 2 - 1 = 1. At 2.5 s client 1 brings 4 - 2 = 2, two
    updates stale: 1 - 2 / sqrt(3).
    """

    def quadratic(params, batch, keys):
        del keys
        return (params["w"] - batch["b"]) ** 2 / 2

    run = AsyncFederation(
        quadratic,
        fedavg(optax.sgd(0.5)),
        [0, 1, 2],
        Batching(1),
        clock=Clock(np.array([1.0, 2.5]), np.zeros(2)),
        way=Asynchronous(2, 1, polynomial(0.5)),
    )
    state, data = run.init({"w": jnp.array(4.0)}), run.replicate({"b": jnp.zeros(2)})
    path = []
    for r in range(3):
        state, _ = run.run_round(state, data, run.plan(r))
        path.append((run.timeline.wave(r).end, float(state.server.params["w"])))
    assert path == [(1.0, 2.0), pytest.approx((2.5, 1 - 2 / np.sqrt(3))), path[2]]


def test_a_client_that_yields_nan_is_named_and_left_out():
    data = examples()
    data["y"][: SIZES[0]] = np.nan
    run = federation(*WAYS["fedbuff"], make_placement(2, 2), clock=clock(dropout=0.0))
    state, results = train(run, data)
    refused = [r.client for wave in results for r in wave if not r.finite]
    assert refused
    assert set(refused) == {0}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.server))


def test_a_buffer_of_refused_updates_does_not_move_the_server():
    """Its momentum would carry it on."""
    run = federation(*WAYS["momentum"], make_placement(1, 1), clock=clock(dropout=0.0))
    placed, state = run.replicate(examples()), run.init(params())
    state, _ = run.run_round(state, placed, run.plan(0))
    state, _ = run.run_round(state, placed, run.plan(1))
    spoilt = run.replicate(examples() | {"y": np.full(SIZES.sum(), np.nan, np.float32)})
    for r in range(2, 20):  # By then what was in flight before has arrived.
        before = jax.device_get(state.server.params)
        state, _ = run.run_round(state, spoilt, run.plan(r))
    assert any(arrival.flush for arrival in run.timeline.wave(19).arrivals)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state.server.params))


def test_a_resumed_run_goes_on_bit_for_bit():
    one, other = (federation(*WAYS["fedbuff"], make_placement(2)) for _ in range(2))
    straight, _ = train(one)
    state, _ = train(one, waves=3)
    placed = other.replicate(examples())
    for r in range(3, WAVES):  # Another process: its timeline begins anew.
        state, _ = other.run_round(state, placed, other.plan(r))
    jax.tree.map(np.testing.assert_array_equal, state, straight)


@pytest.mark.parametrize("buffer", [1, 3])
def test_the_timeline_is_that_of_an_event_queue(buffer):
    """Every job ends one duration after it began; waves only cut the sequence."""
    steps = np.arange(1, 9)
    timeline = Timeline(clock(), steps, 5, buffer, seed=3)
    waves = [timeline.wave(r) for r in range(40)]
    arrivals = [arrival for wave in waves for arrival in wave.arrivals]
    times = [arrival.time for arrival in arrivals]
    assert times == sorted(times)
    began = {job.slot: (job.client, 0, 0.0) for job in waves[0].jobs}
    version, waiting, trained_slots = 0, 0, set()
    for r, wave in enumerate(waves[:-1]):
        trained_slots |= {job.slot for job in wave.jobs}
        following = {}
        for arrival in wave.arrivals:
            client, started_at, _ = began[arrival.job.slot]
            assert arrival.job.slot in trained_slots
            trained_slots.remove(arrival.job.slot)
            assert arrival.job.client == client
            assert arrival.staleness == version - started_at
            waiting += not arrival.lost
            assert arrival.flush == (waiting == buffer and not arrival.lost)
            if arrival.flush:
                version, waiting = version + 1, 0
            following[arrival.job.slot] = version, arrival.time
        assert version == wave.version
        for job in waves[r + 1].jobs:
            began[job.slot] = (job.client, *following.pop(job.slot))
        assert not following, "every slot that was freed is taken again"
        assert len({client for client, _, _ in began.values()}) == 5, "nobody is in flight twice"
    assert len(arrivals) / len(waves) > 1.5, "many updates a dispatch"


def test_without_a_clock_or_with_clients_that_keep_something_it_is_refused():
    way, server = WAYS["fedbuff"]
    with pytest.raises(ValueError, match="needs a clock"):
        federation(way, server, clock=None)
    keeping = fedavg(optax.adam(0.1), client_state="persist")
    with pytest.raises(ValueError, match="keep nothing"):
        AsyncFederation(loss, keeping, [0, 1], Batching(1), clock=clock(), way=way)
    with pytest.raises(ValueError, match="concurrency=9"):
        federation(Asynchronous(9, 1, polynomial(0.5)), server)
