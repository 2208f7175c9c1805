"""From the configuration of a federated method to the parts of a federation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optax

from ufm_jax.config.federation import CompressionConfig, FederationConfig
from ufm_jax.config.training import OptimizerConfig
from ufm_jax.errors import ConfigError
from ufm_jax.fed.aggregate.aggregator import Aggregator
from ufm_jax.fed.aggregate.bulyan import bulyan
from ufm_jax.fed.aggregate.centred_clipping import centred_clipping
from ufm_jax.fed.aggregate.clipping import norm_clipping
from ufm_jax.fed.aggregate.geometric_median import geometric_median
from ufm_jax.fed.aggregate.krum import krum, multi_krum
from ufm_jax.fed.aggregate.mean import mean
from ufm_jax.fed.aggregate.median import median
from ufm_jax.fed.aggregate.stacked import Attack, Rule, stacked
from ufm_jax.fed.aggregate.trimmed_mean import trimmed_mean
from ufm_jax.fed.algorithm import Algorithm, plain_gradient
from ufm_jax.fed.algorithms.ditto import ditto
from ufm_jax.fed.algorithms.fedavg import LrFactor, fedavg
from ufm_jax.fed.algorithms.feddyn import feddyn
from ufm_jax.fed.algorithms.fednova import fednova
from ufm_jax.fed.algorithms.fedprox import proximal
from ufm_jax.fed.algorithms.fedsam import sharpness_aware
from ufm_jax.fed.algorithms.mimelite import mimelite
from ufm_jax.fed.algorithms.scaffold import scaffold
from ufm_jax.fed.gradient import Gradient, mean_gradient
from ufm_jax.fed.participation import Participation
from ufm_jax.fed.privacy.client_level import Adaptive, private_updates
from ufm_jax.fed.privacy.example_level import private_gradient
from ufm_jax.fed.privacy.secure_sum import secure_sum
from ufm_jax.fed.updates.attacks import (
    inner_product,
    little_is_enough,
    random_noise,
    sign_flip,
    stale_replay,
)
from ufm_jax.fed.updates.compression import compressed, low_rank, quantise, random_k, top_k
from ufm_jax.fed.updates.transform import Transform, with_transforms

_COUNTS_PER_NOISE = 20.0
"""The noise on counts is the expected cohort over this (Andrew et al., 2021)."""


@dataclass(frozen=True)
class Optimizers:
    """The optimisers of a federation, and what they were made from.

    Attributes:
        client: At its peak learning rate.
        server: Applied to the pseudo-gradient.
        client_config: What ``client`` was made from, for methods that need its numbers.
        lr_factor: The schedule of the clients' learning rate; None for a constant one.
    """

    client: optax.GradientTransformation
    server: optax.GradientTransformation
    client_config: OptimizerConfig
    lr_factor: LrFactor | None


def make_algorithm(
    config: FederationConfig, optimizers: Optimizers, personal: Sequence[str], num_clients: int
) -> Algorithm:
    """The algorithm, with the transforms of what its clients send.

    Args:
        config: The method.
        optimizers: Of clients and server.
        personal: Paths of the parameters that stay with each client, as regular expressions.
        num_clients: K.
    """
    cohort = config.cohort_size or num_clients
    algorithm = _plain_algorithm(config, optimizers, personal)
    return with_transforms(algorithm, [*_attack(config), *sent_through(config, cohort)])


def sent_through(config: FederationConfig, cohort: int) -> list[Transform]:
    """What an honest client's update passes through before it leaves the client.

    Args:
        config: The method.
        cohort: Clients a round.
    """
    return [*_compression(config.compression), *_privacy(config, cohort)]


def make_aggregator(config: FederationConfig, num_clients: int) -> Aggregator:
    """The rule by which updates become one, with the attack of colluding clients.

    Raises:
        ConfigError: If there are too few clients for what the rule promises.
    """
    aggregation, attack = config.aggregation, config.attack
    if aggregation.rule == "secure_sum":
        return _secure_sum(config, num_clients)
    hostile, norm = aggregation.hostile, aggregation.norm
    rules: dict[str, Callable[[], Rule]] = {
        "mean": Rule,
        "median": lambda: median(hostile),
        "trimmed_mean": lambda: trimmed_mean(hostile),
        "krum": lambda: krum(hostile),
        "multi_krum": lambda: multi_krum(hostile),
        "bulyan": lambda: bulyan(hostile),
        "geometric_median": lambda: geometric_median(),
        "norm_clipping": lambda: norm_clipping(norm),
        "centred_clipping": lambda: centred_clipping(norm, aggregation.iterations),
    }
    collusion: dict[str, Attack] = {
        "little_is_enough": little_is_enough(attack.scale),
        "inner_product": inner_product(attack.scale),
    }
    if aggregation.rule == "mean" and attack.kind not in collusion:
        return mean(renormalise=config.privacy.level != "client")
    rule, cohort = rules[aggregation.rule](), config.cohort_size or num_clients
    if cohort < rule.enough:
        raise ConfigError(
            f"config.federation.aggregation.hostile={hostile}: {aggregation.rule} needs a cohort "
            f"of {rule.enough} for that, and there are {cohort}; lower it"
        )
    return stacked(rule, attack=collusion.get(attack.kind), hostile=attack.clients)


def _secure_sum(config: FederationConfig, num_clients: int) -> Aggregator:
    sampling, cohort = config.participation.sampling, config.cohort_size or num_clients
    most = Participation(sampling).most(cohort, num_clients)
    return secure_sum(
        config.aggregation.norm,
        most,
        most_weight=most / cohort if sampling == "poisson" else 1.0,
        renormalise=config.privacy.level != "client",
        masked=config.aggregation.masked,
    )


def make_gradient(config: FederationConfig) -> Gradient:
    """The gradient of a batch: clipped and noised where examples are protected."""
    privacy = config.privacy
    if privacy.level != "example":
        return mean_gradient()
    return private_gradient(
        privacy.clip, privacy.noise_multiplier, config.batch_size, privacy.microbatch
    )


def _plain_algorithm(
    config: FederationConfig, optimizers: Optimizers, personal: Sequence[str]
) -> Algorithm:
    chosen = config.algorithm
    base = fedavg(
        optimizers.client,
        optimizers.server,
        client_state=config.client_state,
        personal=personal,
        gradient={
            "fedprox": proximal(chosen.mu),
            "fedsam": sharpness_aware(chosen.rho),
        }.get(chosen.name, plain_gradient),
        lr_factor=optimizers.lr_factor,
    )
    others: dict[str, Callable[[], Algorithm]] = {
        "scaffold": lambda: scaffold(base, option=chosen.option),
        "feddyn": lambda: feddyn(base, chosen.alpha),
        "fednova": lambda: fednova(
            optimizers.client,
            optimizers.client_config.betas[0],
            optimizers.server,
            lr_factor=optimizers.lr_factor,
        ),
        "mimelite": lambda: mimelite(optimizers.client, lr_factor=optimizers.lr_factor),
        "ditto": lambda: ditto(
            base, optimizers.client, chosen.strength, lr_factor=optimizers.lr_factor
        ),
    }
    return others[chosen.name]() if chosen.name in others else base


def _attack(config: FederationConfig) -> list[Transform]:
    clients, scale = config.attack.clients, config.attack.scale
    alone: dict[str, Callable[[], Transform]] = {
        "sign_flip": lambda: sign_flip(clients, scale),
        "noise": lambda: random_noise(clients, scale),
        "stale_replay": lambda: stale_replay(clients),
    }
    return [alone[config.attack.kind]()] if config.attack.kind in alone else []


def _compression(config: CompressionConfig) -> list[Transform]:
    if config.kind == "none":
        return []
    compressor = {
        "top_k": lambda: top_k(config.fraction),
        "random_k": lambda: random_k(config.fraction, unbiased=not config.error_feedback),
        "quantise": lambda: quantise(config.bits, unbiased=not config.error_feedback),
        "low_rank": lambda: low_rank(config.rank),
    }[config.kind]()
    return [compressed(compressor, error_feedback=config.error_feedback)]


def _privacy(config: FederationConfig, cohort: int) -> list[Transform]:
    privacy = config.privacy
    if privacy.level != "client":
        return []
    multiplier, adaptive = privacy.noise_multiplier, None
    if privacy.quantile:
        # If few clients take part, counts with less noise would cost more privacy than updates.
        noise = max(cohort / _COUNTS_PER_NOISE, multiplier)
        adaptive = Adaptive(privacy.quantile, privacy.quantile_rate, noise)
    return [private_updates(privacy.clip, multiplier, 1 / cohort, adaptive)]
