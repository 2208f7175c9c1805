"""When no epsilon may be stated: what the analysis assumes, and a run did not do."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["client", "example"]


@dataclass(frozen=True)
class RunFacts:
    """What a run did, as far as its promise depends on it.

    Attributes:
        level: What is protected: a client's presence, or an example's within its client.
        units: n: clients, or the examples of the largest client.
        delta: At which epsilon is to be stated.
        noise_multiplier: z.
        secret_noise: Whether the noise comes from a secret, not from a known seed.
        secret_draws: Whether nobody can tell who was drawn. Where everyone takes part, or batches
            are shuffled, nothing was drawn: True.
        sampling: Client level: of cohorts; example level: of batches.
        by_trace: Whether a trace decides who can be asked.
        equal_weights: Whether every client weighs the same.
        fixed_divisor: Whether the average's divisor does not depend on who came
            (``mean(renormalise=False)``).
        plain_sum: Whether updates are summed, and not combined by another rule.
        synchronous: Whether clients train in rounds.
    """

    level: Level
    units: int
    delta: float
    noise_multiplier: float
    secret_noise: bool
    secret_draws: bool
    sampling: Literal["uniform", "by_size", "poisson", "shuffle"]
    by_trace: bool = False
    equal_weights: bool = True
    fixed_divisor: bool = True
    plain_sum: bool = True
    synchronous: bool = True


def refusals(facts: RunFacts) -> tuple[str, ...]:
    """Why no epsilon can be stated, one sentence with its remedy each; empty where one can.

    At example level, how the server weighs and combines updates is no reason: every step is already
    private when an update leaves its client, and what is done to it later cannot undo that.
    """
    checks = [
        (
            not facts.secret_noise,
            "the noise comes from a known seed, so that anybody can subtract it: set "
            "privacy.noise_seed=-1",
        ),
        (
            not facts.secret_draws,
            "who was drawn follows from a known seed, so that sampling hides nobody: set the "
            "sampling to 'poisson', which draws from the secret, or let everyone take part",
        ),
        (
            facts.noise_multiplier <= 0,
            "no noise was added: set privacy.noise_multiplier above 0",
        ),
        (
            not 0 < facts.delta * facts.units < 1,
            f"delta={facts.delta:g} is not below 1/{facts.units}, one over the "
            f"{'clients' if facts.level == 'client' else 'examples of the largest client'}, so "
            "that giving one away whole would be allowed: set privacy.delta lower",
        ),
    ]
    if facts.level == "client":
        checks += _of_client_level(facts)
    return tuple(reason for wrong, reason in checks if wrong)


def _of_client_level(facts: RunFacts) -> list[tuple[bool, str]]:
    return [
        (
            not facts.equal_weights,
            "clients weigh by their examples, so that noise fitted to one share hides the larger "
            "ones less: set client_weights='uniform'",
        ),
        (
            not facts.fixed_divisor,
            "the average is divided by the weights that came in, so that one client changes what "
            "all others count: use mean(renormalise=False)",
        ),
        (
            not facts.plain_sum,
            "the aggregation rule is no sum, so that clipping does not bound what one client "
            "changes: set aggregation.rule='mean'",
        ),
        (
            facts.sampling == "by_size",
            "cohorts are drawn by size, so that clients have different rates: set "
            "participation.sampling='poisson'",
        ),
        (
            facts.by_trace,
            "a trace decides who can be asked, so that a cohort is no random draw: leave "
            "participation.trace empty",
        ),
        (
            not facts.synchronous,
            "training without rounds weighs updates by their staleness, for which there is no "
            "analysis here: set asynchronous.concurrency=0",
        ),
    ]
