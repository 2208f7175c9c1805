"""Who takes part in a round: who is asked, and who answers in time (host, numpy)."""

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
    """Who is asked.

    Attributes:
        sampling: ``uniform`` draws a cohort of fixed size without replacement; ``by_size`` too,
            with probabilities in proportion to the clients' examples; ``poisson`` asks each client
            by itself, with the probability that gives the cohort's size on average: the sampling
            that privacy accounting wants.
        available: bool [T, K], a trace: client k can be asked in round r where
            ``available[r % T, k]``; None for always. Where fewer than a cohort are available, all
            of them are asked.
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
            rng: For this round.
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
    """A number that a sum of independent draws of this mean exceeds with less than 1e-9.

    Bernstein's inequality, P(X >= m + t) <= exp(-t^2 / (2 m + 2 t / 3)).
    """
    log = math.log(1 / _TAIL)
    return math.ceil(mean + log / 3 + math.sqrt(log**2 / 9 + 2 * log * mean))


@dataclass(frozen=True)
class Clock:
    """How long clients take, on a virtual clock, and who is cut.

    Attributes:
        step_seconds: [K] seconds of a local step of each client.
        latency: [K] seconds that a client takes besides, a round.
        jitter: Standard deviation of the logarithm of a factor on all that, drawn anew each round.
        dropout: Probability that a client is not heard of again; the server learns of it at the
            deadline, or at once where there is none.
        deadline: Seconds after which the server goes on without those that are late.
    """

    step_seconds: npt.NDArray[np.float64]
    latency: npt.NDArray[np.float64]
    jitter: float = 0.0
    dropout: float = 0.0
    deadline: float = math.inf

    def answers(
        self, clients: IntArray, num_steps: IntArray, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.bool_], float]:
        """Who of a cohort answers in time, and how long the round takes.

        Args:
            clients: [S] the cohort, in ascending order.
            num_steps: [S] local steps of each.
            rng: For this round.

        Returns:
            bool [S], and seconds: until the last answer, or the deadline where one is missing.
        """
        noise = np.exp(self.jitter * rng.normal(size=len(clients)))
        seconds = noise * (self.latency[clients] + num_steps * self.step_seconds[clients])
        lost = rng.random(len(clients)) < self.dropout
        in_time = (seconds <= self.deadline) & ~lost
        missed = math.isfinite(self.deadline) and not in_time.all()
        return in_time, self.deadline if missed else float(seconds[in_time].max(initial=0.0))

    def seconds(self, client: int, num_steps: int, rng: np.random.Generator) -> tuple[float, bool]:
        """After how long the server hears of one client, and whether nothing comes of it."""
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
        latency: Seconds besides, of each.
        jitter: See ``Clock``.
        dropout: Of each.
        deadline: See ``Clock``.
        seed: The run's.
    """
    factor = np.exp(spread * host_rng(seed, "speed").normal(size=num_clients))
    return Clock(step_seconds * factor, np.full(num_clients, latency), jitter, dropout, deadline)
