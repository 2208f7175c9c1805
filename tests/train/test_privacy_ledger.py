"""What a private run says of itself: the right mechanism, the budget, or why not."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import optax
import pytest

from ufm_jax.config.federation import (
    AggregationConfig,
    FederationConfig,
    ParticipationConfig,
    PrivacyConfig,
)
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.config.training import OptimizerConfig, PlacementConfig, ScheduleConfig
from ufm_jax.errors import ConfigError
from ufm_jax.fed.privacy.accounting import Spent, epsilon
from ufm_jax.fed.privacy.mechanism import Mechanism
from ufm_jax.runs.checkpoint import Checkpoints
from ufm_jax.train.federation import build_federation
from ufm_jax.train.privacy_ledger import PRIVACY_FILE, Spending, begin_spending

SIZES = np.array([40, 100, 60])
NAMES = ("north", "south", "west")
EXAMPLE = PrivacyConfig("example", noise_multiplier=2.0, delta=1e-3)
CLIENT = PrivacyConfig("client", noise_multiplier=4.0, delta=0.1)


def federation(config):
    data = SimpleNamespace(
        offsets=np.concatenate([[0], np.cumsum(SIZES)]),
        num_clients=3,
        names=NAMES,
        store=SimpleNamespace(image_shape=(8, 8, 1)),
    )
    sgd = OptimizerConfig(name="sgd", betas=(0.0, 0.0), weight_decay=0.0)
    run = PretrainConfig(
        federation=config,
        client_optimizer=sgd,
        schedule=ScheduleConfig(0),
        placement=PlacementConfig(devices=1),
    )
    return build_federation(run, data, None, optax.sgd(0.1), optax.sgd(1.0))


def settings(privacy, **changes):
    return replace(
        FederationConfig(batch_size=10, client_state="reset", client_weights="uniform"),
        privacy=privacy,
        **changes,
    )


def after(config, rounds):
    run = federation(config)
    spending = Spending(config, run)
    for r in range(rounds):
        spending.after(run.plan(r))
    return spending


def test_poisson_batches_are_accounted_for_step_by_step(tmp_path):
    """60 examples in batches of 10: rate 1/6, six steps a round."""
    spending = after(settings(EXAMPLE, batch_sampling="poisson"), 5)
    text = spending.write(tmp_path, NAMES)
    found = json.loads((tmp_path / PRIVACY_FILE).read_text())["clients"]
    capacity = federation(settings(EXAMPLE, batch_sampling="poisson")).batching.capacity
    bounded = (60, capacity) if capacity < 60 else (0, 0)
    known = epsilon([Spent(Mechanism(2.0, "poisson", 1 / 6, *bounded), 30)], 1e-3)
    assert found["west"]["epsilon"] == pytest.approx(known.best)
    worst = max(client["epsilon"] for client in found.values())
    assert f"epsilon {worst:.3g} at most, at delta 0.001" in text


def test_shuffled_batches_count_as_one_release_an_epoch(tmp_path):
    spending = after(settings(EXAMPLE, local_epochs=2), 3)
    spending.write(tmp_path, NAMES)
    found = json.loads((tmp_path / PRIVACY_FILE).read_text())["clients"]
    known = epsilon([Spent(Mechanism(2.0), 6)], 1e-3)
    assert [client["epsilon"] for client in found.values()] == [pytest.approx(known.best)] * 3


def test_only_who_took_part_spends_examples_and_everybody_spends_clients():
    run = settings(EXAMPLE, cohort_size=2)
    counts = after(run, 8).ledger.releases[:, -1]
    assert counts.sum() == 16
    assert (counts > 0).all()
    poisson = ParticipationConfig("poisson")
    counts = after(settings(CLIENT, cohort_size=2, participation=poisson), 8).ledger.releases
    assert (counts == 8).all()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (settings(replace(EXAMPLE, noise_seed=3)), "known seed"),
        (settings(replace(CLIENT, delta=0.05), cohort_size=2), "sampling hides nobody"),
        (settings(replace(CLIENT, noise_multiplier=0.0)), "no noise"),
        (settings(replace(EXAMPLE, delta=0.05)), "not below 1/100"),
    ],
)
def test_without_its_assumptions_no_epsilon_is_stated(tmp_path, config, reason):
    text = after(config, 2).write(tmp_path, NAMES)
    assert text.startswith("no epsilon is stated")
    assert reason in text
    assert "clients" not in json.loads((tmp_path / PRIVACY_FILE).read_text())
    with pytest.raises(ConfigError, match=r"no epsilon can be stated for this run"):
        after(replace(config, privacy=replace(config.privacy, epsilon=3.0)), 0)


def test_a_robust_rule_does_not_hinder_examples(tmp_path):
    config = settings(EXAMPLE, aggregation=AggregationConfig("median"))
    assert after(config, 1).reasons == ()


def test_the_budget_ends_the_run_before_it_is_overspent(tmp_path):
    """Also of a run that goes on: it ends where it would have ended."""
    config = settings(replace(EXAMPLE, epsilon=4.0), rounds=200)
    run = federation(config)
    with Checkpoints(tmp_path) as checkpoints:
        spending, rounds = begin_spending(config, run, 0, {})
        assert 1 < rounds < 200
        for r in range(rounds):
            spending.after(run.plan(r))
        spent = [Spent(Mechanism(2.0), rounds)]
        assert epsilon(spent, 1e-3).best <= 4.0
        assert epsilon([Spent(Mechanism(2.0), rounds + 1)], 1e-3).best > 4.0
        state = {"w": np.ones(2, np.float32)}
        checkpoints.save(2, state, 0.0, spending.stored())
    with Checkpoints(tmp_path) as checkpoints:  # As another process finds it.
        resumed, again = begin_spending(config, run, 2, checkpoints.ledger(2))
    assert again == rounds
    for found, known in zip(resumed.ledger, spending.ledger, strict=True):
        np.testing.assert_array_equal(found, known)


def test_a_budget_for_less_than_a_round_is_refused():
    config = settings(replace(EXAMPLE, epsilon=0.01))
    with pytest.raises(ConfigError, match="first round"):
        begin_spending(config, federation(config), 0, {})


def test_a_run_without_privacy_keeps_no_ledger():
    config = settings(PrivacyConfig(), rounds=7)
    assert begin_spending(config, federation(config), 0, {}) == (None, 7)


def test_a_checkpoint_without_a_ledger_is_not_gone_on_with():
    with pytest.raises(ConfigError, match="holds no privacy ledger"):
        after(settings(EXAMPLE), 1).restore({})


def test_a_microbatch_that_does_not_divide_is_refused_before_anything_is_compiled():
    with pytest.raises(ConfigError, match="microbatch=7 does not divide the 10 examples"):
        PretrainConfig(federation=settings(replace(EXAMPLE, microbatch=7)))


def test_without_dp_accounting_a_run_does_not_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match="an epsilon needs dp-accounting"):
        after(settings(EXAMPLE), 0)


def test_a_budget_of_nothing_protected_is_refused():
    with pytest.raises(ConfigError, match=r"privacy\.epsilon=3\.0 with level='none'"):
        PrivacyConfig(epsilon=3.0)
