"""Reasons why no epsilon may be stated: assumptions of the analysis that a run does not meet."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["client", "example"]


@dataclass(frozen=True)
class RunFacts:
    """The properties of a run on which its promise depends.

    Attributes:
        level: Whether a client's presence is protected, or an example's within its client.
        units: n, the number of clients, or of the examples of the largest client.
        delta: The delta at which epsilon is to be stated.
        noise_multiplier: z.
        secret_noise: Whether the noise comes from a secret instead of a known seed.
        secret_draws: Whether nobody can tell who was drawn. True if everyone takes part or batches
            are shuffled, since nothing is drawn then.
        sampling: How cohorts (client level) or batches (example level) are drawn.
        by_trace: Whether a trace decides who can be asked.
        equal_weights: Whether every client weighs the same.
        fixed_divisor: Whether the average's divisor is independent of who came
            (``mean(renormalise=False)``).
        plain_sum: Whether updates are summed, instead of combined by another rule.
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
    """The reasons why no epsilon can be stated, each with its remedy; empty if one can be.

    At example level the server may weigh and combine updates in any way: every step is private
    before an update leaves its client, and nothing that follows can undo that.
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
            "the aggregation rule does not sum updates, so that clipping does not bound what one "
            "client changes: set aggregation.rule='mean'",
        ),
        (
            facts.sampling == "by_size",
            "cohorts are drawn by size, so that clients have different rates: set "
            "participation.sampling='poisson'",
        ),
        (
            facts.by_trace,
            "a trace decides who can be asked, so that a cohort is not drawn at random: leave "
            "participation.trace empty",
        ),
        (
            not facts.synchronous,
            "training without rounds weighs updates by their staleness, which the analysis does "
            "not cover: set asynchronous.concurrency=0",
        ),
    ]
