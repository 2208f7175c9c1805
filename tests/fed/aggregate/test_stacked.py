"""Rules inside the compiled round: the same as on updates that lie in one place."""

import jax
import numpy as np
import optax
import pytest

from ufm_jax.fed.aggregate.centred_clipping import centred_clipping
from ufm_jax.fed.aggregate.geometric_median import geometric_median
from ufm_jax.fed.aggregate.krum import multi_krum
from ufm_jax.fed.aggregate.mean import mean
from ufm_jax.fed.aggregate.stacked import Rule, stacked
from ufm_jax.fed.aggregate.trimmed_mean import trimmed_mean
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import make_placement
from ufm_jax.fed.reference import reference_init, reference_round

SIZES = np.array([33, 1, 17, 20, 3, 24, 16, 50, 9])
PARAMS = {"w": np.linspace(-1, 1, 5).astype(np.float32), "b": np.zeros((2, 3), np.float32)}
AGGREGATORS = {
    "trimmed_mean": stacked(trimmed_mean(2)),
    "multi_krum": stacked(multi_krum(2)),
    "geometric_median": stacked(geometric_median()),
    "centred_clipping": stacked(centred_clipping(0.1)),
    "attacked": stacked(
        multi_krum(2), attack=lambda values, hostile, honest: -values, hostile=(3, 7)
    ),
}
PLACEMENTS = [(1, 1), (2, 2), (8, 1), (2, 8)]


def loss(params, batch, keys):
    del keys
    return (batch["x"] @ params["w"] + params["b"].sum() - batch["y"]) ** 2


def examples():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SIZES.sum(), 5)).astype(np.float32)
    return {"x": x, "y": rng.normal(size=SIZES.sum()).astype(np.float32)}


def federation(aggregator, devices=1, lanes=1):
    return Federation(
        loss,
        fedavg(optax.sgd(0.05)),
        np.concatenate([[0], np.cumsum(SIZES)]),
        Batching(8),
        cohort_size=8,
        aggregator=aggregator,
        placement=make_placement(devices, lanes),
    )


def train(federation, rounds=2, data=None):
    state, placed = federation.init(PARAMS), federation.replicate(data or examples())
    for r in range(rounds):
        state, _ = federation.run_round(state, placed, federation.plan(r))
    return state


@pytest.fixture(scope="module", params=AGGREGATORS)
def oracle(request):
    aggregator = AGGREGATORS[request.param]
    slow = federation(aggregator)
    state = reference_init(slow, PARAMS)
    for r in range(2):
        state, _ = reference_round(slow, state, examples(), slow.plan(r))
    return aggregator, state


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_round_equals_the_python_loop(oracle, placement):
    aggregator, expected = oracle
    fast = federation(aggregator, *placement)
    state = train(fast)
    for found, known in (
        (state.server.params, expected.server.params),
        (state.aggregate, expected.aggregate),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, known)
    assert fast.compilations == 1


def test_without_a_rule_the_stack_is_the_mean():
    found, known = (train(federation(kind)) for kind in (stacked(Rule()), mean()))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found.server, known.server
    )


@pytest.mark.parametrize("lanes", [2, 8])
def test_who_sends_nan_is_absent(lanes):
    data = examples()
    first = int(SIZES[:3].sum())
    data["y"][first : first + SIZES[3]] = np.nan
    cohort = [0, 2, 3, 4, 5, 6, 7, 8]
    without = [k for k in cohort if k != 3]
    states = []
    for chosen, given in ((cohort, data), (without, examples())):
        run = federation(stacked(trimmed_mean(2)), 2, lanes)
        state, placed = run.init(PARAMS), run.replicate(given)
        states.append(run.run_round(state, placed, run.plan(0, chosen))[0])
    jax.tree.map(np.testing.assert_array_equal, states[0].server, states[1].server)


@pytest.mark.parametrize("rule", [trimmed_mean(2), geometric_median(), centred_clipping(0.1)])
def test_updates_too_long_to_be_true_are_left_out(rule):
    """1e19 is finite, and its square is not: no rule could do arithmetic with it."""

    def far(values, hostile, honest):
        del honest
        return jax.numpy.where(hostile[:, None], 1e19, values)

    cohort = [0, 2, 3, 4, 5, 6, 7, 8]
    states = []
    for attack, chosen in ((far, cohort), (None, [k for k in cohort if k != 3])):
        run = federation(stacked(rule, attack=attack, hostile=(3,)), 2, 2)
        state, placed = run.init(PARAMS), run.replicate(examples())
        states.append(run.run_round(state, placed, run.plan(0, chosen))[0])
    for found, known in zip(*map(jax.tree.leaves, (s.server for s in states)), strict=True):
        np.testing.assert_allclose(found, known, atol=1e-6)


def test_a_round_with_fewer_updates_than_the_rule_needs_changes_nothing():
    run = federation(stacked(multi_krum(2)))
    state, placed = run.init(PARAMS), run.replicate(examples())
    state, metrics = run.run_round(state, placed, run.plan(0, [0, 2, 3, 4, 5, 6]))
    jax.tree.map(np.testing.assert_array_equal, state.server.params, PARAMS)
    assert float(metrics.update_norm) == 0
    state, metrics = run.run_round(state, placed, run.plan(0, [0, 2, 3, 4, 5, 6, 7]))
    assert float(metrics.update_norm) > 0
