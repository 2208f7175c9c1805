"""A noisy sum as the accounting sees it: how much noise, and who is in the sum (host).

A release is a sum of vectors, one for each unit (a client, or an example of a client), each of
length C at most, with Gaussian noise of deviation z C added. Who is in the sum decides the
accounting:

    everyone   each unit once: the Gaussian mechanism. An epoch of shuffled batches is one such
               release, since a unit is in one batch, whose noise alone hides it: the order of a
               shuffle is not taken to hide anything.
    poisson    each unit independently with probability q: amplified by sampling.
    fixed      S of n units without replacement: amplified too, but by less.

Neighbours: for ``everyone`` and ``poisson``, a unit is present or left blank, so that it moves the
sum by C. For ``fixed``, a unit is replaced by another, which moves the sum by 2 C: the noise is
z / 2 of that. Replacing is the stronger promise, so the two epsilons cannot be compared.
"""

import math
from dataclasses import dataclass
from typing import Literal

Sampling = Literal["everyone", "poisson", "fixed"]
SAMPLINGS: tuple[Sampling, ...] = ("everyone", "poisson", "fixed")
"""Ledgers in checkpoints hold places in this tuple, which therefore may only grow at its end."""


@dataclass(frozen=True)
class Mechanism:
    """A noisy sum, and how its units are drawn.

    Attributes:
        noise_multiplier: z, the deviation of the noise in units of the length C.
        sampling: Who is in the sum.
        rate: q, the probability that a unit is in the sum.
        population: n for ``fixed`` and if ``most`` is set, otherwise 0.
        most: ``fixed``: S. ``poisson``: the most units in a sum, to which a larger draw is cut at
            random; 0 for no bound. ``everyone``: 0.
    """

    noise_multiplier: float
    sampling: Sampling = "everyone"
    rate: float = 1.0
    population: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling={self.sampling!r}: choose one of {', '.join(SAMPLINGS)}")
        if not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier={self.noise_multiplier}: give 0 or more")
        if not 0 < self.rate <= 1 or (self.sampling == "everyone" and self.rate < 1):
            raise ValueError(
                f"rate={self.rate} with sampling={self.sampling!r}: give a rate above 0 and up to "
                "1, and 1 where everyone takes part"
            )
        bounded = self.sampling == "fixed" or self.most > 0
        if bounded and not 0 < self.most <= self.population:
            raise ValueError(
                f"most={self.most} of population={self.population}: give from 1 unit up to the "
                "population"
            )


def mechanism_of(
    noise_multiplier: float,
    sampling: Literal["uniform", "shuffle", "poisson"],
    size: int,
    population: int,
    most: int = 0,
) -> Mechanism:
    """The mechanism of a round at client level, or of a client's batches at example level.

    Args:
        noise_multiplier: z.
        sampling: How cohorts ('uniform', 'poisson') or batches ('shuffle', 'poisson') are drawn;
            with 'shuffle' the mechanism is that of an epoch. 'by_size' is refused, since no
            analysis covers it.
        size: Units that are drawn, S clients or B examples; their mean for Poisson sampling.
        population: Units among which they are drawn, K clients or the client's examples.
        most: Poisson sampling: the most units for which there is room.

    Raises:
        ValueError: If the sampling cannot be accounted for.
    """
    if sampling not in ("uniform", "shuffle", "poisson"):
        raise ValueError(f"sampling={sampling!r} cannot be accounted for: use 'poisson'")
    if sampling == "shuffle" or size >= population:
        return Mechanism(noise_multiplier)
    rate = size / population
    if sampling == "uniform":
        return Mechanism(noise_multiplier, "fixed", rate, population, size)
    if 0 < most < population:
        return Mechanism(noise_multiplier, "poisson", rate, population, most)
    return Mechanism(noise_multiplier, "poisson", rate)


def releases_per_round(
    sampling: Literal["shuffle", "poisson"], num_steps: int, steps_per_epoch: int
) -> int:
    """How often the mechanism of a client's batches runs in ``num_steps`` local steps.

    Poisson batches count one by one. Shuffled batches count by epochs, begun ones as whole.
    """
    return num_steps if sampling == "poisson" else -(-num_steps // steps_per_epoch)
