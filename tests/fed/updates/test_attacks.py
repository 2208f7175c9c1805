"""Attacks do what they say, and to the hostile clients alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.fed.aggregate.krum import multi_krum
from ufm_jax.fed.aggregate.mean import mean
from ufm_jax.fed.aggregate.median import median
from ufm_jax.fed.aggregate.stacked import Rule, stacked
from ufm_jax.fed.aggregate.trimmed_mean import trimmed_mean
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import make_placement
from ufm_jax.fed.updates.attacks import (
    flip_labels,
    inner_product,
    little_is_enough,
    random_noise,
    sign_flip,
    stale_replay,
)
from ufm_jax.fed.updates.transform import with_transforms

HOSTILE = (1, 4)


def slopes(params, batch, keys):
    """Whose update at rate 1 is the client's row."""
    del keys
    return batch["x"] @ params["w"]


def moved(x, transforms=(), aggregator=None, rounds=1, on=(2, 1)):
    """How far the server went, turned round: the aggregate of the clients' rows."""
    run = Federation(
        slopes,
        with_transforms(fedavg(optax.sgd(1.0)), transforms),
        np.arange(len(x) + 1),
        Batching(1),
        aggregator=aggregator or mean(),
        placement=make_placement(*on),
    )
    state = run.init({"w": jnp.zeros(x.shape[1])})
    path = [np.zeros(x.shape[1])]
    for r in range(rounds):
        examples = run.replicate({"x": np.asarray(x * (r + 1), np.float32)})
        state, _ = run.run_round(state, examples, run.plan(r))
        path.append(np.asarray(state.server.params["w"]))
    return -np.diff(path, axis=0)


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(6, 50)) + 1


def test_sign_flip(rows):
    expected = rows.copy()
    expected[list(HOSTILE)] *= -3
    np.testing.assert_allclose(
        moved(rows, [sign_flip(HOSTILE, 3.0)])[0], expected.mean(0), rtol=1e-5, atol=1e-6
    )


def test_random_noise_is_scaled_and_the_same_wherever_clients_train(rows):
    transform = random_noise(HOSTILE, 10.0)
    one, other = (moved(rows, [transform], on=on)[0] for on in ((1, 1), (2, 2)))
    np.testing.assert_allclose(one, other, atol=1e-5)
    honest = np.delete(rows, HOSTILE, 0).sum(0)
    sent = 6 * one - honest
    length = 10 * np.sqrt((rows[list(HOSTILE)] ** 2).mean(1) @ np.ones(2))
    assert sent.std() == pytest.approx(length, rel=0.3)


def test_stale_replay_sends_the_first_update_for_ever(rows):
    """Rows grow by their own each round; those of the hostile clients do not."""
    honest, hostile = np.delete(rows, HOSTILE, 0).sum(0), rows[list(HOSTILE)].sum(0)
    expected = [((r + 1) * honest + hostile) / 6 for r in range(3)]
    np.testing.assert_allclose(moved(rows, [stale_replay(HOSTILE)], rounds=3), expected, rtol=2e-4)


def test_colluding_clients_send_what_they_agreed_on(rows):
    honest = np.delete(rows, HOSTILE, 0)
    centre, spread = honest.mean(0), honest.std(0)
    for attack, sent in (
        (little_is_enough(1.5), centre - 1.5 * spread),
        (inner_product(2.0), -2 * centre),
    ):
        found = moved(rows, aggregator=stacked(Rule(), attack=attack, hostile=HOSTILE))[0]
        np.testing.assert_allclose(found, (4 * centre + 2 * sent) / 6, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", [median(2), trimmed_mean(2), multi_krum(2)])
def test_robust_rules_withstand_what_turns_the_mean_round(rows, rule):
    many = np.concatenate([rows, rows + 0.1])
    honest = np.delete(many, HOSTILE, 0).mean(0)
    attack = {"attack": inner_product(20.0), "hostile": HOSTILE}
    plain, robust = (moved(many, aggregator=stacked(kind, **attack))[0] for kind in (Rule(), rule))
    assert plain @ honest < 0
    cosine = robust @ honest / np.linalg.norm(robust) / np.linalg.norm(honest)
    assert cosine > 0.8


def test_an_attack_without_hostile_clients_is_none(rows):
    plain = moved(rows)[0]
    for transform in (sign_flip(()), random_noise((), 5.0), stale_replay(())):
        np.testing.assert_array_equal(moved(rows, [transform])[0], plain)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        moved(rows, aggregator=stacked(Rule(), attack=inner_product(9.0), hostile=()))[0],
        plain,
    )


def test_labels_are_flipped_for_hostile_clients_alone():
    labels = np.array([0, 1, 2, -1, 0, 2, 1])
    found = flip_labels(labels, [0, 2, 5, 7], (1,), 3)
    np.testing.assert_array_equal(found, [0, 1, 0, -1, 2, 2, 1])
    np.testing.assert_array_equal(labels, [0, 1, 2, -1, 0, 2, 1])
