"""Which clients take part in a round: who is asked, and who answers in time (host, numpy)."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ufm_jax.fed.keys import host_rng
from ufm_jax.fed.schedule import IntArray

Sampling = Literal["uniform", "by_size", "poisson"]

_TAIL = 1e-9
"""Probability with which a Poisson draw may be larger than there is room for."""


@dataclass(frozen=True)
class Participation:
    """How the clients of a round are drawn.

    Attributes:
        sampling: ``uniform`` draws a cohort of fixed size without replacement. ``by_size`` does so
            with probabilities in proportion to the clients' examples. ``poisson``, which privacy
            accounting wants, asks each client independently, so that the cohort has its size on
            average.
        available: bool [T, K] trace: client k can be asked in round r where
            ``available[r % T, k]``; None if all always can. If fewer clients than a cohort are
            available, all of them are asked.
    """

    sampling: Sampling = "uniform"
    available: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.sampling not in ("uniform", "by_size", "poisson"):
            raise ValueError(
                f"sampling={self.sampling!r}: choose 'uniform', 'by_size' or 'poisson'"
            )
        if self.sampling == "poisson" and self.available is not None:
            raise ValueError(
                "sampling='poisson' asks every client with one probability, which a trace of who "
                "is available changes: use 'uniform' or 'by_size' with a trace"
            )

    def most(self, cohort_size: int, num_clients: int) -> int:
        """The most clients that a round may have."""
        if self.sampling != "poisson":
            return cohort_size
        return min(num_clients, poisson_bound(cohort_size))

    def draw(
        self, cohort_size: int, sizes: IntArray, round_index: int, rng: np.random.Generator
    ) -> IntArray:
        """The clients of a round, in ascending order.

        Args:
            cohort_size: S, or its mean for Poisson sampling.
            sizes: [K] examples of each client.
            round_index: The round.
            rng: The generator of this round.
        """
        count = len(sizes)
        if self.sampling == "poisson":
            asked = np.flatnonzero(rng.random(count) < cohort_size / count)
            most = self.most(cohort_size, count)
            return np.sort(rng.permutation(asked)[:most]) if len(asked) > most else asked
        clients = np.arange(count)
        if self.available is not None:
            clients = clients[self.available[round_index % len(self.available)]]
        if len(clients) <= cohort_size:
            return clients
        share = sizes[clients] / sizes[clients].sum() if self.sampling == "by_size" else None
        return np.sort(rng.choice(clients, cohort_size, replace=False, p=share))


def poisson_bound(mean: float) -> int:
    """A bound that a sum of independent draws of this mean exceeds with probability below 1e-9.

    It is Bernstein's inequality, P(X >= m + t) <= exp(-t^2 / (2 m + 2 t / 3)).
    """
    log = math.log(1 / _TAIL)
    return math.ceil(mean + log / 3 + math.sqrt(log**2 / 9 + 2 * log * mean))


@dataclass(frozen=True)
class Clock:
    """How long clients take on a virtual clock, and which of them are lost.

    Attributes:
        step_seconds: [K] seconds of a local step of each client.
        latency: [K] further seconds that each client takes in a round.
        jitter: Standard deviation of the logarithm of a factor on both, drawn anew each round.
        dropout: Probability that a client drops out. The server notices at the deadline; without a
            deadline it notices at once.
        deadline: Seconds after which the server goes on without the clients that are late.
    """

    step_seconds: npt.NDArray[np.float64]
    latency: npt.NDArray[np.float64]
    jitter: float = 0.0
    dropout: float = 0.0
    deadline: float = math.inf

    def answers(
        self, clients: IntArray, num_steps: IntArray, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.bool_], float]:
        """Which clients of a cohort answer in time, and how long the round takes.

        Args:
            clients: [S] the cohort, in ascending order.
            num_steps: [S] local steps of each.
            rng: The generator of this round.

        Returns:
            bool [S], and the seconds until the last answer, or the deadline if one is missing.
        """
        noise = np.exp(self.jitter * rng.normal(size=len(clients)))
        seconds = noise * (self.latency[clients] + num_steps * self.step_seconds[clients])
        lost = rng.random(len(clients)) < self.dropout
        in_time = (seconds <= self.deadline) & ~lost
        missed = math.isfinite(self.deadline) and not in_time.all()
        return in_time, self.deadline if missed else float(seconds[in_time].max(initial=0.0))

    def seconds(self, client: int, num_steps: int, rng: np.random.Generator) -> tuple[float, bool]:
        """The seconds until the server hears of one client, and whether its update is lost."""
        noise = math.exp(self.jitter * rng.normal())
        seconds = noise * (self.latency[client] + num_steps * self.step_seconds[client])
        lost = bool(rng.random() < self.dropout) or seconds > self.deadline
        if lost:
            return self.deadline if math.isfinite(self.deadline) else 0.0, True
        return float(seconds), False


def drawn_clock(
    num_clients: int,
    *,
    step_seconds: float,
    spread: float,
    latency: float,
    jitter: float,
    dropout: float,
    deadline: float,
    seed: int,
) -> Clock:
    """A clock of clients whose speeds are log-normal around a median.

    Args:
        num_clients: K.
        step_seconds: Median seconds of a local step.
        spread: Standard deviation of the logarithm of a client's speed.
        latency: Further seconds of each client in a round.
        jitter: See ``Clock``.
        dropout: See ``Clock``.
        deadline: See ``Clock``.
        seed: The run's seed.
    """
    factor = np.exp(spread * host_rng(seed, "speed").normal(size=num_clients))
    return Clock(step_seconds * factor, np.full(num_clients, latency), jitter, dropout, deadline)
