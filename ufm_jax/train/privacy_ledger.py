"""What a private run has spent, what it may still spend, and what may be said of it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.cluster import hosts
from ufm_jax.config.federation import FederationConfig
from ufm_jax.config.schema import as_config_errors
from ufm_jax.errors import ConfigError
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.plan import HostPlan
from ufm_jax.fed.privacy.accounting import check_installed
from ufm_jax.fed.privacy.ledger import Ledger, epsilons, go_on, new_ledger, rounds_within, spend
from ufm_jax.fed.privacy.mechanism import Mechanism, mechanism_of, releases_per_round
from ufm_jax.fed.privacy.refusals import RunFacts, refusals
from ufm_jax.files import write_json

PRIVACY_FILE = "privacy.json"

_log = logging.getLogger(__name__)


class Spending:
    """The privacy ledger of a run, and the statement that comes of it.

    Attributes:
        ledger: What each client has spent so far.
        reasons: Why no epsilon may be stated; empty where one may.
    """

    def __init__(self, config: FederationConfig, federation: Federation) -> None:
        """Opens a ledger of clients that have spent nothing.

        Args:
            config: The method.
            federation: Built from it, with the run's noise.

        Raises:
            ConfigError: If a budget is set and no epsilon may be stated.
        """
        self._privacy, self._federation = config.privacy, federation
        facts = facts_of(config, federation)
        self.reasons = refusals(facts)
        if self._privacy.epsilon and self.reasons:
            raise ConfigError(
                f"config.federation.privacy.epsilon={self._privacy.epsilon}: no epsilon can be "
                f"stated for this run: {self.reasons[0]}"
            )
        if not self.reasons:
            with as_config_errors():
                check_installed()
        # Without an analysis there is nothing to count.
        self._mechanisms = [] if self.reasons else mechanisms_of(config, federation)
        self.ledger = None if self.reasons else new_ledger(self._mechanisms)
        self._per_round = releases_of(config, federation)

    def restore(self, stored: Mapping[str, Any] | None) -> None:
        """Goes on from the ledger of a checkpoint.

        Raises:
            ConfigError: If the checkpoint holds none, so that earlier spending is not known.
        """
        if self.ledger is None:
            return
        if not stored:
            raise ConfigError(
                "the checkpoint holds no privacy ledger, so that what the run has spent is not "
                "known: start in a new --workdir"
            )
        kinds = {name: leaf.dtype for name, leaf in self.ledger._asdict().items()}
        read = Ledger(**{name: np.array(stored[name], kinds[name]) for name in kinds})
        self.ledger = go_on(read, self._mechanisms)

    def after(self, plan: HostPlan) -> None:
        """Enters a round. At client level all spend alike: not being drawn is part of it."""
        if self.ledger is None:
            return
        took_part = np.ones(self._federation.num_clients, bool)
        if self._privacy.level == "example":
            took_part[:] = False
            took_part[plan.schedule.client] = True
        self.ledger = spend(self.ledger, np.where(took_part, self._per_round, 0))

    def stored(self) -> dict[str, Any]:
        """The ledger as a checkpoint holds it."""
        if self.ledger is None:
            return {}
        return {name: leaf.tolist() for name, leaf in self.ledger._asdict().items()}

    def rounds_within_budget(self, wanted: int) -> int:
        """The most rounds within the budget, of those that are wanted.

        Raises:
            ConfigError: If there are none.
        """
        budget = self._privacy.epsilon
        if not budget or self.ledger is None:
            return wanted
        within = rounds_within(budget, self._privacy.delta, self.ledger, self._per_round, wanted)
        if not within:
            raise ConfigError(
                f"config.federation.privacy.epsilon={budget}: the first round spends more; raise "
                "it, or noise_multiplier"
            )
        if within < wanted:
            _log.warning(
                "the budget of epsilon %g allows %d of %d rounds: the run stops after them",
                *(budget, within, wanted),
            )
        return within

    def write(self, workdir: Path, names: tuple[str, ...]) -> str:
        """Writes privacy.json, and returns what it says in a sentence."""
        level, delta = self._privacy.level, self._privacy.delta
        facts: dict[str, Any] = {"level": level, "delta": delta}
        if self.ledger is None:
            statement = f"no epsilon is stated: {'; '.join(self.reasons)}"
            _write(workdir, facts | {"statement": statement, "refused": list(self.reasons)})
            return statement
        found = epsilons(self.ledger, delta)
        of_clients = {
            name: {"epsilon": one.best, "rdp": one.rdp, "pld": one.pld}
            for name, one in zip(names, found, strict=True)
        }
        worst = max(one.best for one in found)
        whose = "each client" if level == "client" else "each example of a client"
        statement = f"{whose} is protected with epsilon {worst:.3g} at most, at delta {delta:g}"
        _write(workdir, facts | {"statement": statement, "clients": of_clients})
        return statement


def begin_spending(
    config: FederationConfig, federation: Federation, done: int, ledger: Mapping[str, Any]
) -> tuple[Spending | None, int]:
    """The privacy ledger of a run after ``done`` rounds, and the rounds that its budget allows.

    Args:
        config: The method.
        federation: What is trained.
        done: Rounds that are done.
        ledger: What was spent in them, as a checkpoint holds it.

    Raises:
        ConfigError: If the budget allows none, or no epsilon can be stated.
    """
    if config.privacy.level == "none":
        return None, config.rounds
    spending = Spending(config, federation)
    # Before anything was spent: a resumed run stops where it would have stopped.
    rounds = spending.rounds_within_budget(config.rounds)
    if done:
        spending.restore(ledger)
    return spending, rounds


def _write(workdir: Path, facts: Mapping[str, Any]) -> None:
    with hosts.together(f"writing {workdir / PRIVACY_FILE}"):
        if hosts.is_first():
            write_json(workdir / PRIVACY_FILE, facts)


def facts_of(config: FederationConfig, federation: Federation) -> RunFacts:
    """What the promise of a run depends on."""
    privacy, participation = config.privacy, config.participation
    everybody = federation.most_clients == federation.num_clients
    client_level = privacy.level == "client"
    draws = participation.sampling if client_level else config.batch_sampling
    secret = privacy.noise_seed < 0
    nothing_drawn = (everybody and draws != "poisson") or draws == "shuffle"
    return RunFacts(
        level="client" if client_level else "example",
        units=federation.num_clients if client_level else int(federation.sizes.max()),
        delta=privacy.delta,
        noise_multiplier=privacy.noise_multiplier,
        secret_noise=secret,
        secret_draws=nothing_drawn or (draws == "poisson" and secret),
        sampling=draws,
        by_trace=bool(participation.trace),
        equal_weights=config.client_weights == "uniform",
        fixed_divisor=client_level,
        plain_sum=config.aggregation.rule in ("mean", "secure_sum"),
        synchronous=not config.asynchronous.concurrency,
    )


def mechanisms_of(config: FederationConfig, federation: Federation) -> list[Mechanism]:
    """The mechanism of each client; a run that may state an epsilon has one."""
    z, sampling = config.privacy.noise_multiplier, config.participation.sampling
    count, batching = federation.num_clients, federation.batching
    if config.privacy.level == "client":
        if sampling == "by_size":
            raise ValueError("cohorts by size have no mechanism")
        cohort = config.cohort_size or count
        return [mechanism_of(z, sampling, cohort, count, federation.most_clients)] * count
    return [
        mechanism_of(z, batching.sampling, batching.batch_size, int(size), batching.capacity)
        for size in federation.sizes
    ]


def releases_of(config: FederationConfig, federation: Federation) -> np.ndarray:
    """[K] releases of each client in a round in which it takes part."""
    if config.privacy.level == "client":
        return np.ones(federation.num_clients, np.int64)
    batching = federation.batching
    return np.array(
        [
            releases_per_round(
                batching.sampling, int(steps), int(batching.steps_per_epoch(int(size)))
            )
            for steps, size in zip(federation.num_steps, federation.sizes, strict=True)
        ]
    )
