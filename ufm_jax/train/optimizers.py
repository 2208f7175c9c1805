"""Optimisers and the learning-rate schedule, from their configuration."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from ufm_jax.config.training import OptimizerConfig, ScheduleConfig
from ufm_jax.fed.algorithm import Params, Tree
from ufm_jax.fed.algorithms.fedopt import adaptive

_RMS_OF_ADAM = 0.2
"""Root mean square of Adam's steps, to which Muon's are scaled (Liu et al. 2025), so that one
learning rate serves both."""


def decays(params: Params) -> Tree:
    """Which leaves weight decay acts on: all but biases and the scales of norms.

    Told by name: a stacked bias has two axes, so the number of axes says nothing.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ("bias", "scale"), params
    )


def make_optimizer(
    config: OptimizerConfig, batch_size: int, mask: Callable[[Params], Tree] = decays
) -> optax.GradientTransformation:
    """Builds an optimiser at its peak learning rate.

    Args:
        config: Name and numbers.
        batch_size: B, by which the rate is scaled where the configuration says so.
        mask: Which leaves weight decay acts on.
    """
    first, second = config.betas
    momentum = first or None

    def adam() -> optax.GradientTransformation:
        return optax.scale_by_adam(first, second, config.eps, mu_dtype=config.moment_dtype)

    scale = {
        "adamw": adam,
        "adam": adam,
        "yogi": lambda: optax.scale_by_yogi(first, second, config.eps),
        "adagrad": lambda: optax.scale_by_rss(initial_accumulator_value=0.0, eps=config.eps),
        "fedadam": lambda: adaptive("adam", first, second, config.eps),
        "fedyogi": lambda: adaptive("yogi", first, second, config.eps),
        "fedadagrad": lambda: adaptive("adagrad", first, second, config.eps),
        "sgd": lambda: optax.trace(momentum, config.nesterov) if momentum else optax.identity(),
        # The sign turns at the end of the chain.
        "muon": lambda: optax.contrib.muon(
            -1.0,
            beta=first,
            adam_b1=first,
            adam_b2=second,
            eps=config.eps,
            consistent_rms=_RMS_OF_ADAM,
            muon_weight_dimension_numbers=_block_matrices,
        ),
    }[config.name]()
    chain = [scale]
    if config.clip_norm:
        chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay:
        chain.append(optax.add_decayed_weights(config.weight_decay, mask=mask))
    return optax.chain(*chain, optax.scale(-peak_rate(config, batch_size)))


def _block_matrices(params: Params) -> Tree:
    """Where Muon acts: the kernels [..., I, O] of the blocks; None elsewhere."""

    def numbers(path: tuple[Any, ...], leaf: jax.Array) -> MuonDimensionNumbers | None:
        inside = any(entry.key == "blocks" for entry in path) and path[-1].key == "kernel"
        return MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1) if inside else None

    return jax.tree_util.tree_map_with_path(numbers, params)


def peak_rate(config: OptimizerConfig, batch_size: int) -> float:
    """The peak learning rate, scaled by the batch size where the configuration says so."""
    return config.learning_rate * (batch_size / 256 if config.scale_by_batch else 1.0)


def lr_factor(schedule: ScheduleConfig, rounds: int) -> Callable[[jax.Array], jax.Array]:
    """The learning-rate factor of a run of ``rounds`` rounds; see ``warmup_cosine``."""
    return warmup_cosine(rounds, schedule.warmup_rounds, schedule.min_factor)


def warmup_cosine(
    rounds: int, warmup_rounds: int, min_factor: float = 0.0
) -> Callable[[jax.Array], jax.Array]:
    """Linear warm-up from 0, then half a cosine to ``min_factor`` (Loshchilov and Hutter, 2017).

    Args:
        rounds: Rounds of the run.
        warmup_rounds: Rounds of warm-up.
        min_factor: Factor when ``progress`` reaches ``rounds``.

    Returns:
        ``progress -> factor``; progress in rounds. A local step has that of its middle, so that the
        first step of a warm-up trains; the published code takes its beginning, where the rate is 0.
    """

    def factor(progress: jax.Array) -> jax.Array:
        rising = progress / max(warmup_rounds, 1)
        done = (progress - warmup_rounds) / max(rounds - warmup_rounds, 1)
        falling = min_factor + (1 - min_factor) * 0.5 * (1 + jnp.cos(jnp.pi * done))
        return jnp.where(progress < warmup_rounds, rising, falling)

    return factor
