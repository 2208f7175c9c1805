"""The masked sum is the integer sum, and one client's part of it is noise to whoever sees it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from ufm_jax.fed.aggregate.aggregator import Cohort
from ufm_jax.fed.aggregate.mean import mean
from ufm_jax.fed.algorithm import Turn
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.keys import fold
from ufm_jax.fed.placement import make_placement
from ufm_jax.fed.privacy.masks import add_masks
from ufm_jax.fed.privacy.secure_sum import encode, fixed_point, secure_sum, sent, unmask
from ufm_jax.fed.reference import reference_init, reference_round

SIZES = np.array([33, 16, 17, 20, 18, 24])
PARAMS = {"w": np.linspace(-1, 1, 5).astype(np.float32), "b": np.zeros((2, 3), np.float32)}
COHORT = [0, 2, 3, 4, 5]
PLACEMENTS = [(4, 1), (2, 8)]
CLIENTS = 7  # Of the cohorts that are made by hand, with two empty places.


def loss(params, batch, keys):
    del keys
    return (batch["x"] @ params["w"] + params["b"].sum() - batch["y"]) ** 2


def examples(hostile=()):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SIZES.sum(), 5)).astype(np.float32)
    y = rng.normal(size=SIZES.sum()).astype(np.float32)
    for client in hostile:
        y[SIZES[:client].sum() : SIZES[: client + 1].sum()] = np.nan
    return {"x": x, "y": y}


def federation(aggregator, on=(1, 1), **changes):
    devices, lanes = on
    return Federation(
        loss,
        fedavg(optax.sgd(0.05)),
        np.concatenate([[0], np.cumsum(SIZES)]),
        Batching(8, local_epochs=None, local_steps=2),
        aggregator=aggregator,
        placement=make_placement(devices, lanes),
        **changes,
    )


def train(run, data):
    state, placed = run.init(PARAMS), run.replicate(data)
    return run.run_round(state, placed, run.plan(0, COHORT))[0].server.params


def assert_close(found, known, atol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), found, known)


@pytest.fixture(scope="module")
def oracle():
    run = federation(secure_sum(0.5, 6))
    state = reference_init(run, PARAMS)
    return reference_round(run, state, examples([3, 4]), run.plan(0, COHORT))[0].server.params


@pytest.mark.parametrize("on", PLACEMENTS)
def test_masks_change_no_bit_and_every_placement_equals_the_loop(on, oracle):
    """Two clients send nan, after all others have masked for them."""
    data = examples([3, 4])
    found, plain = (
        train(federation(secure_sum(0.5, 6, masked=m), on), data) for m in (True, False)
    )
    jax.tree.map(np.testing.assert_array_equal, found, plain)
    assert_close(found, oracle, 1e-6)


@pytest.mark.parametrize("weights", [(0.3, 0.1, 0.2, 0.25, 0.15, 0, 0), (0.2,) * 5 + (0, 0)])
@pytest.mark.parametrize("renormalise", [True, False])
def test_where_nothing_is_clipped_it_is_the_mean(weights, renormalise):
    """By size or uniform, with the second client lost."""
    group = cohort(weights)
    group = group._replace(weight=group.weight.at[1].set(0))
    shapes = {"w": (CLIENTS, 3), "b": (CLIENTS, 2, 2)}
    updates = {
        name: jax.random.normal(jax.random.key(i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }
    found, known = (
        kind.alone((), updates, group)
        for kind in (secure_sum(50.0, 6, renormalise=renormalise), mean(renormalise=renormalise))
    )
    assert_close(found[1], known[1], 1e-6)
    np.testing.assert_allclose(found[2], known[2], rtol=1e-6)


def test_without_anybody_the_server_stays_as_it_is():
    updates, group = {"w": jnp.ones((CLIENTS, 3))}, cohort((0,) * CLIENTS)
    _, update, proceed = secure_sum(1.0, 6).alone((), updates, group)
    assert not proceed
    np.testing.assert_array_equal(update["w"], 0)


def test_parameters_in_other_precision_are_refused_by_name():
    run = federation(secure_sum(1.0, 6))
    with pytest.raises(ValueError, match=r"\['w'\] is bfloat16: secure aggregation takes float32"):
        run.init(PARAMS | {"w": jnp.zeros(5, jnp.bfloat16)})


def cohort(weights=(0.3, 0.1, 0.2, 0.25, 0.15, 0, 0), seed=0):
    """Five clients in no order, and two empty places."""
    clients = jnp.array([9, 2, 14, 0, 5, 0, 0], jnp.int32)
    return Cohort(clients, jnp.array(weights, jnp.float32), jax.random.key(seed))


@partial(jax.jit, static_argnames=("point", "masked"))
def all_sent(point, updates, group, masked=True):
    """uint32 [S, n] what each place of a cohort sends."""

    def one(of):
        update, client, weight = of
        turn = Turn(client, weight, jnp.int32(0), fold(group.key, client))
        return sent(point, update, turn, group, masked=masked)

    return jax.lax.map(one, (updates, group.client, group.weight))


UNMASK = jax.jit(unmask)


@settings(max_examples=25)
@given(st.sets(st.integers(0, 4), max_size=4), st.integers(0, 2**31 - 1))
def test_the_masked_sum_is_the_integer_sum_whoever_is_lost(lost, seed):
    group, point = cohort(seed=seed), fixed_point(2.0, 5)
    updates = jax.random.normal(jax.random.key(seed + 1), (CLIENTS, 12))
    masked, plain = (np.asarray(all_sent(point, updates, group, m)) for m in (True, False))
    came = [place for place in range(5) if place not in lost]
    clients = np.full(5, -1, np.int32)
    clients[came] = np.asarray(group.client)[came]
    gone = np.isin(np.arange(CLIENTS), list(lost))
    total = masked[came].sum(axis=0, dtype=np.uint32)
    found = UNMASK(total, clients, gone, group)
    np.testing.assert_array_equal(found, plain[came].sum(axis=0, dtype=np.uint32))


def histogram(words):
    return np.bincount(np.asarray(words).view(np.uint8), minlength=256)


def test_what_is_seen_of_one_client_is_uniform_whatever_it_holds():
    """Chi-square over bytes: against uniform, and of two updates against each other."""
    point, size = fixed_point(1.0, 5), 20_000
    updates = jnp.stack([jnp.zeros(size), jnp.linspace(-1, 1, size)])
    group = cohort()
    largest = chi2.ppf(1 - 1e-4, 255)
    seen = []
    for update in updates:
        everybody = jnp.broadcast_to(update, (CLIENTS, size))
        masked, plain = (all_sent(point, everybody, group, m)[0] for m in (True, False))
        counts = histogram(masked)
        expected = counts.sum() / 256
        assert ((counts - expected) ** 2 / expected).sum() < largest
        assert ((histogram(plain) - expected) ** 2 / expected).sum() > 10 * largest
        # Under one mask, two updates give numbers that differ by the updates: draw another.
        seen.append(counts)
        group = cohort(seed=1)
    assert ((seen[0] - seen[1]) ** 2 / (seen[0] + seen[1])).sum() < largest


def test_each_pair_has_a_mask_that_cancels_and_no_two_have_the_same():
    group, nothing = cohort(), jnp.zeros(50, jnp.uint32)
    shared = jax.jit(lambda client, others: add_masks(nothing, client, others, group))
    masks, owns = {}, set()
    for i, client in enumerate(group.client[:5]):
        own = shared(client, jnp.zeros(CLIENTS, bool))
        owns.add(tuple(np.asarray(own)))
        for j in range(5):
            masks[i, j] = np.asarray(shared(client, jnp.arange(CLIENTS) == j) - own)
    for i in range(5):
        assert not masks[i, i].any()
        for j in range(i):
            np.testing.assert_array_equal(masks[i, j] + masks[j, i], 0)
    pairs = [tuple(masks[i, j]) for i in range(5) for j in range(5) if i != j]
    assert len(owns | set(pairs)) == 25


def test_what_is_sent_differs_by_client_and_by_round():
    point, nothing = fixed_point(1.0, 5), jnp.zeros((CLIENTS, 500))
    one, other = (np.asarray(all_sent(point, nothing, cohort(seed=s)))[:5] for s in (0, 1))
    rows = np.concatenate([one, other])
    for i, row in enumerate(rows[:-1]):
        assert (rows[i + 1 :] == row).mean() < 0.01
    alone = all_sent(point, nothing, cohort((0.3, 0, 0, 0, 0, 0, 0)))[0]
    assert np.unique(alone).size == 500


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, -0.3, -7.75, 1e-3, 2**20 + 0.5, -(2.0**24) - 6])
def test_rounding_is_to_a_neighbour_and_right_on_average(value):
    count, point = 50_000, fixed_point(2.0**26, 1)
    numbers = jnp.full(count, value * 2.0**-point.bits)
    found = np.asarray(_encode_each(point, numbers)).view(np.int32)
    assert set(np.unique(found)) <= {np.floor(value), np.ceil(value)}
    part = value - np.floor(value)
    assert abs(found.mean() - value) <= 5 * np.sqrt(part * (1 - part) / count)


@partial(jax.jit, static_argnames="point")
def _encode_each(point, numbers):
    """Each as an update of one number: together they would be clipped."""
    keys = jax.random.split(jax.random.key(0), len(numbers))
    one = jax.vmap(lambda x, key: encode(point, x[None], jnp.float32(1), key)[0])
    return one(numbers, keys)


def test_a_long_update_is_clipped_to_its_norm_and_a_short_one_is_not():
    point, key = fixed_point(0.5, 4), jax.random.key(0)
    direction = np.array([3.0, -4.0, 0.0, 12.0], np.float32) / 13
    for length, kept in ((0.2, 0.2), (0.5, 0.5), (40.0, 0.5)):
        words = encode(point, jnp.asarray(length * direction), jnp.float32(0.25), key)
        found = np.asarray(words).view(np.int32) * 2.0**-point.bits
        np.testing.assert_allclose(found, 0.25 * kept * direction, atol=1e-7)


@settings(max_examples=60)
@given(st.floats(1e-6, 1e6), st.integers(1, 2000), st.sampled_from([1.0, 1.7]), st.booleans())
def test_the_largest_sum_fits_and_no_bit_is_wasted(clip, clients, most_weight, negative):
    """All clients at the end of the range in the same number, each rounded away from zero."""
    point = fixed_point(clip, clients, most_weight)
    value = jnp.full(1, -1e15 if negative else 1e15)
    share = jnp.float32(most_weight / clients)
    word = np.asarray(_encode(point.bits, point.clip, value, share)).view(np.int32)
    largest = clients * (abs(int(word[0])) + 1)
    assert 2**29 < largest <= 2**31 - 1


@jax.jit
def _encode(bits, clip, value, share):
    point = fixed_point(1.0, 1)._replace(clip=clip)
    # The bits are data here, so that one compilation serves all cases.
    scaled = share * jnp.exp2(bits - point.bits)
    return encode(point, value, scaled, jax.random.key(0))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ((0.0, 5), "above 0"),
        ((np.inf, 5), "above 0"),
        ((1.0, 5, 0.0), "above 0"),
        ((1.0, 0), "clients=0"),
        ((1.0, 2**31), "32 bits hold"),
        ((1e-30, 5), "range of float32"),
    ],
)
def test_what_does_not_fit_is_refused(given_, message):
    with pytest.raises(ValueError, match=message):
        fixed_point(*given_)
