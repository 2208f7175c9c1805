"""Each rule against known cases, numpy, scipy, and what its paper promises."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from ufm_jax.fed.aggregate.aggregator import Cohort
from ufm_jax.fed.aggregate.bulyan import bulyan
from ufm_jax.fed.aggregate.centred_clipping import centred_clipping
from ufm_jax.fed.aggregate.clipping import norm_clipping
from ufm_jax.fed.aggregate.geometric_median import geometric_median
from ufm_jax.fed.aggregate.krum import krum, multi_krum
from ufm_jax.fed.aggregate.median import median
from ufm_jax.fed.aggregate.stacked import apply_rule
from ufm_jax.fed.aggregate.trimmed_mean import trimmed_mean


@cache
def compiled(rule):
    return jax.jit(lambda values, reference, cohort: apply_rule(rule, values, reference, cohort))


def apply(rule, values, weight=None, reference=None):
    values = jnp.asarray(values, jnp.float32).reshape(len(values), -1)
    weight = jnp.ones(len(values)) if weight is None else jnp.asarray(weight, jnp.float32)
    reference = jnp.zeros(values.shape[1]) if reference is None else jnp.asarray(reference)
    cohort = Cohort(jnp.arange(len(values)), weight, jax.random.key(0))
    return np.asarray(compiled(rule)(values, reference, cohort))


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        (krum(1), [0.2, 0.7, 1.0], 0.7),
        (multi_krum(1, keep=2), [0.2, 0.5, 1.0], 0.35),
        (norm_clipping(2.0), [1.0, 3.0, 5.0], 5 / 3),
        (median(), [3.0, -1.0, 10.0], 3.0),
        (median(), [3.0, -1.0, 10.0, 4.0], 3.5),
        (trimmed_mean(1), [3.0, -1.0, 10.0, 4.0], 3.5),
    ],
)
def test_known_cases(rule, values, expected):
    assert apply(rule, values) == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def updates():
    return np.random.default_rng(0).normal(size=(11, 7)).astype(np.float32)


def test_coordinate_rules_equal_numpy_and_scipy(updates):
    np.testing.assert_allclose(apply(median(), updates), np.median(updates, 0), rtol=1e-6)
    expected = stats.trim_mean(updates, 2 / 11, axis=0)
    np.testing.assert_allclose(apply(trimmed_mean(2), updates), expected, rtol=1e-5)


def krum_order(values, f):
    """Clients from the lowest of Krum's scores to the highest, as the paper writes them."""
    scores = []
    for i in range(len(values)):
        far = sorted(((values[i] - values[j]) ** 2).sum() for j in range(len(values)) if j != i)
        scores.append(sum(far[: max(len(values) - f - 2, 1)]))
    return np.argsort(scores)


@pytest.mark.parametrize("f", [1, 2, 4])
def test_krum_equals_its_definition(updates, f):
    order = krum_order(updates, f)
    np.testing.assert_allclose(apply(krum(f), updates), updates[order[0]], rtol=1e-6)
    expected = updates[order[: 11 - f]].mean(0)
    np.testing.assert_allclose(apply(multi_krum(f), updates), expected, rtol=1e-5)


@pytest.mark.parametrize("f", [1, 2])
def test_bulyan_equals_its_definition(updates, f):
    left, chosen = list(range(11)), []
    while len(chosen) < 11 - 2 * f:
        best = left[krum_order(updates[left], f)[0]]
        chosen.append(best)
        left.remove(best)
    picked = updates[chosen]
    nearest = np.argsort(np.abs(picked - np.median(picked, 0)), axis=0)[: len(picked) - 2 * f]
    expected = np.take_along_axis(picked, nearest, 0).mean(0)
    np.testing.assert_allclose(apply(bulyan(f), updates), expected, rtol=1e-5)


def test_geometric_median_is_where_the_summed_distance_is_least(updates):
    weight, updates = np.arange(1, 12) / 66, updates.astype(float)

    def cost(z):
        return (weight * np.linalg.norm(updates - z, axis=1)).sum()

    found = apply(geometric_median(), updates, weight)
    best = optimize.minimize(cost, updates.mean(0), tol=1e-12)
    assert cost(found) == pytest.approx(best.fun, rel=1e-6)
    np.testing.assert_allclose(found, best.x, atol=1e-3)


def test_centred_clipping_by_hand():
    """Around 1: distances 0.5, 1, 9 at radius 2 move the centre by (0.5 - 1 + 2) / 3 = 0.5.

    Then around 1.5: distances 0, -1.5, 8.5 move it by (0 - 1.5 + 2) / 3.
    """
    values = [1.5, 0.0, 10.0]
    assert apply(centred_clipping(2.0), values, reference=[1.0]) == pytest.approx(1.5)
    found = apply(centred_clipping(2.0, iterations=2), values, reference=[1.0])
    assert found == pytest.approx(1.5 + 0.5 / 3)


def test_weights_count_where_the_paper_has_them(updates):
    weight = np.arange(1.0, 12.0)
    share = weight / weight.sum()
    np.testing.assert_allclose(
        apply(norm_clipping(1e9), updates, weight), share @ updates, rtol=1e-5, atol=1e-6
    )
    for rule in (median(), trimmed_mean(2), krum(2), bulyan(2)):
        np.testing.assert_array_equal(apply(rule, updates, weight), apply(rule, updates))


RULES = {
    "median": median(2),
    "trimmed_mean": trimmed_mean(2),
    "krum": krum(2),
    "multi_krum": multi_krum(2),
    "bulyan": bulyan(2),
    "geometric_median": geometric_median(),
    "norm_clipping": norm_clipping(1.0),
    "centred_clipping": centred_clipping(1.0, iterations=3),
}


@pytest.mark.parametrize("name", RULES)
def test_absent_clients_and_the_order_of_the_others_change_nothing(updates, name):
    shuffled = np.random.default_rng(1).permutation(11)
    values = np.full((14, 7), np.nan, np.float32)
    places = np.array([0, 1, 3, 4, 5, 7, 8, 9, 11, 12, 13])
    values[places] = updates[shuffled]
    weight = np.zeros(14)
    weight[places] = 1
    np.testing.assert_allclose(
        apply(RULES[name], values, weight), apply(RULES[name], updates), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", RULES)
def test_equal_updates_come_back(name):
    same = np.tile(np.array([0.3, -0.4], np.float32), (11, 1))
    np.testing.assert_allclose(apply(RULES[name], same), same[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "bulyan"])
@settings(max_examples=25)
@given(data=st.data())
def test_two_of_eleven_cannot_leave_the_range_of_the_others(name, data):
    number = st.floats(-1e6, 1e6, width=32)
    honest = np.array(data.draw(st.lists(number, min_size=9, max_size=9)), np.float32)
    hostile = np.array(data.draw(st.lists(number, min_size=2, max_size=2)), np.float32)
    found = apply(RULES[name], np.concatenate([honest, hostile]))[0]
    slack = 1e-5 * np.abs(honest).max()
    assert honest.min() - slack <= found <= honest.max() + slack


@pytest.mark.parametrize("name", sorted(set(RULES) - {"norm_clipping", "centred_clipping"}))
def test_two_far_away_move_the_result_little(updates, name):
    attacked = np.concatenate([updates, np.full((2, 7), 1e4, np.float32)])
    moved = np.linalg.norm(apply(RULES[name], attacked) - apply(RULES[name], updates))
    assert moved < 3.0
    assert np.linalg.norm(attacked.mean(0) - updates.mean(0)) > 1e3


def test_clipping_bounds_what_one_client_does(updates):
    attacked = np.concatenate([updates, np.full((1, 7), 1e6, np.float32)])
    for name in ("norm_clipping", "centred_clipping"):
        assert np.linalg.norm(apply(RULES[name], attacked)) <= 1.0 + 1e-5


@pytest.mark.parametrize("far", [1e2, 1e3, 1e6, 1e12])
def test_geometric_median_is_not_drawn_by_how_far_off_hostile_updates_are(updates, far):
    """4 of 11 pull with a unit vector each, whatever the distance."""
    hostile = np.concatenate([updates[:7], np.full((4, 7), far, np.float32)])
    centre = apply(RULES["geometric_median"], updates[:7])
    assert np.linalg.norm(apply(RULES["geometric_median"], hostile) - centre) < 2


def test_geometric_median_of_a_client_with_most_of_the_weight_is_its_update(updates):
    updates[3] = 1e6
    weight = np.where(np.arange(11) == 3, 0.6, 0.04)
    np.testing.assert_allclose(
        apply(RULES["geometric_median"], updates, weight), updates[3], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["krum", "multi_krum", "bulyan"])
def test_distances_that_overflow_are_far_and_not_near(updates, name):
    huge = updates.copy()
    huge[:2] = 1e20 * np.sign(updates[:2])
    assert np.abs(apply(RULES[name], huge)).max() < 10


def test_bulyan_decides_ties_by_value():
    values = jnp.array([[-1.0], [-1.0], [0.0], [0.0], [0.0], [1.0], [1.0]])
    bulyan_of_one = compiled(bulyan(1))
    for turn in range(7):
        order = (jnp.arange(7) + turn) % 7
        cohort = Cohort(order, jnp.ones(7), jax.random.key(0))
        found = bulyan_of_one(values[order], jnp.zeros(1), cohort)
        np.testing.assert_allclose(found, -1 / 3, rtol=1e-6)
