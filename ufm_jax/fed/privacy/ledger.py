"""What each client has spent: small arrays that a checkpoint holds, and epsilons from them (host).

Each client has a row, and each mechanism that the run has used has a column. A run has one column
unless it went on with other noise or other batches. At client level every client spends alike in
every round, drawn or not, since not being drawn is part of the mechanism.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ufm_jax.fed.privacy.accounting import Epsilon, Spent, epsilon
from ufm_jax.fed.privacy.mechanism import SAMPLINGS, Mechanism

Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


class Ledger(NamedTuple):
    """What was released; every array is [K, M].

    Attributes:
        sampling: Place in ``mechanism.SAMPLINGS``.
        noise_multiplier, rate, population, most: As in ``mechanism.Mechanism``.
        releases: The number of releases so far.
    """

    sampling: Counts
    noise_multiplier: Numbers
    rate: Numbers
    population: Counts
    most: Counts
    releases: Counts


def new_ledger(mechanisms: Sequence[Mechanism]) -> Ledger:
    """A ledger of K clients that have spent nothing, from the mechanism of each."""
    rows = [
        (SAMPLINGS.index(m.sampling), m.noise_multiplier, m.rate, m.population, m.most, 0)
        for m in mechanisms
    ]
    dtypes = (np.int64, np.float64, np.float64, np.int64, np.int64, np.int64)
    columns: Any = zip(zip(*rows, strict=True), dtypes, strict=True)
    return Ledger(*(np.array(column, dtype)[:, None] for column, dtype in columns))


def go_on(ledger: Ledger, mechanisms: Sequence[Mechanism]) -> Ledger:
    """The ledger with which a run goes on; it has a new column if the mechanisms have changed.

    Raises:
        ValueError: If the number of mechanisms differs from that of clients.
    """
    if len(mechanisms) != len(ledger.releases):
        raise ValueError(
            f"the ledger has {len(ledger.releases)} clients and the run {len(mechanisms)}: what "
            "clients spent cannot be told apart; start in a new folder"
        )
    if [_mechanism(ledger, k, -1) for k in range(len(mechanisms))] == list(mechanisms):
        return ledger
    added = new_ledger(mechanisms)
    return Ledger(*(np.concatenate(pair, axis=1) for pair in zip(ledger, added, strict=True)))


def spend(ledger: Ledger, releases: npt.ArrayLike) -> Ledger:
    """The ledger after more releases by the mechanisms in its last column.

    Args:
        ledger: Before; it is not changed.
        releases: [K] new releases of each client, or one number for all.
    """
    more = np.asarray(releases, np.int64)
    if (more < 0).any():
        raise ValueError("releases cannot be taken back: give counts of 0 or more")
    total = ledger.releases.copy()
    total[:, -1] += more
    return ledger._replace(releases=total)


def spent(ledger: Ledger, client: int) -> list[Spent]:
    """What one client has released."""
    counts = ledger.releases[client].tolist()
    return [Spent(_mechanism(ledger, client, m), count) for m, count in enumerate(counts)]


def epsilons(ledger: Ledger, delta: float) -> list[Epsilon]:
    """Epsilon of each client; equal clients are computed once."""
    return [epsilon(spent(ledger, k), delta) for k in range(len(ledger.releases))]


def rounds_within(
    budget: float, delta: float, ledger: Ledger, per_round: npt.ArrayLike, at_most: int
) -> int:
    """The most further rounds after which no client has spent more than the budget.

    Clients are taken to be in every round, so that the answer holds for any cohorts; it can be
    asked again as the run goes on.

    Args:
        budget: Epsilon.
        delta: At this delta.
        ledger: What is spent already.
        per_round: [K] releases of each client in a round, or one number for all.
        at_most: Rounds that are wanted; no more are tried.
    """
    each = np.broadcast_to(np.asarray(per_round, np.int64), len(ledger.releases)).tolist()
    cases = dict.fromkeys((tuple(spent(ledger, k)), count) for k, count in enumerate(each))
    rounds = at_most
    # The client that is likely to have the least left comes first: the others take one look each.
    for past, count in sorted(cases, key=lambda case: -_pace(*case)):

        def stays(more: int, past: tuple[Spent, ...] = past, count: int = count) -> bool:
            last = past[-1]._replace(releases=past[-1].releases + more * count)
            return epsilon([*past[:-1], last], delta).best <= budget

        rounds = _last_good(stays, rounds)
    return rounds


def _pace(past: tuple[Spent, ...], per_round: int) -> float:
    """About how fast epsilon grows: q sqrt(T) / z, by the central limit of the privacy loss."""
    mechanism = past[-1].mechanism
    if not mechanism.noise_multiplier:
        return math.inf
    return mechanism.rate * math.sqrt(per_round) / mechanism.noise_multiplier


def _last_good(good: Callable[[int], bool], at_most: int) -> int:
    """The largest n up to ``at_most`` that is ``good``, or 0; all below a good n must be good."""
    if good(at_most):
        return at_most
    low, high = 0, at_most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def _mechanism(ledger: Ledger, client: int, column: int) -> Mechanism:
    at = client, column
    return Mechanism(
        float(ledger.noise_multiplier[at]),
        SAMPLINGS[ledger.sampling[at]],
        float(ledger.rate[at]),
        int(ledger.population[at]),
        int(ledger.most[at]),
    )
