"""The optimiser of fine-tuning: a learning rate that falls with distance from the head.

Clark et al., "ELECTRA", 2020; Bao et al., "BEiT", 2022; He et al., "Masked Autoencoders Are
Scalable Vision Learners", 2022, whose layers are numbered here: with n blocks, embeddings are layer
0, block i is layer i + 1, and what follows the blocks (norm, decoder, head) is layer n + 1. Layer l
learns at ``layer_decay ** (n + 1 - l)`` times the rate; its weight decay, being a share of the
rate, shrinks along.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ufm_jax.config.training import OptimizerConfig
from ufm_jax.fed.algorithm import Params, Tree
from ufm_jax.train.optimizers import make_optimizer

_ENCODER, _BLOCKS, _STACKED = "encoder", "blocks", "block"
_EMBEDDINGS = ("patch_embed", "cls_token", "pos_embed")
_NEVER_DECAYS = ("bias", "scale", "cls_token", "pos_embed")


def finetune_optimizer(
    config: OptimizerConfig,
    batch_size: int,
    layer_decay: float = 1.0,
) -> optax.GradientTransformation:
    """Builds the optimiser of a classifier or a segmenter at its peak learning rate.

    Args:
        config: Name and numbers, as for pretraining.
        batch_size: B, by which the rate is scaled where the configuration says so.
        layer_decay: Factor on the learning rate from a layer to the one below, in (0, 1].

    Raises:
        ValueError: If ``layer_decay`` is out of range.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay={layer_decay}: use a factor above 0, up to 1 (no decay)")
    optimizer = make_optimizer(config, batch_size, mask=decays)
    if layer_decay < 1:
        optimizer = optax.chain(optimizer, scale_by_layer(layer_decay))
    return optimizer


def freeze_encoder(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimiser that leaves the encoder as it is, and keeps no state for it.

    A compiled step does not compute the encoder's gradient, since nothing uses it.
    """
    return optax.partition({True: optax.set_to_zero(), False: optimizer}, in_encoder)


def scale_by_layer(layer_decay: float) -> optax.GradientTransformation:
    """Scales updates by ``layer_factors``; it has no state."""

    def update(updates: Tree, params: Params | None) -> Tree:
        del params
        factors = layer_factors(updates, layer_decay)
        return jax.tree.map(
            lambda leaf, factor: leaf * jnp.asarray(factor, leaf.dtype), updates, factors
        )

    return optax.stateless(update)


def layer_factors(params: Params, layer_decay: float) -> Tree:
    """Each leaf's factor on the learning rate.

    Args:
        params: Parameters of ``models.classifier.Classifier`` or ``models.segmenter.Segmenter``,
            blocks unrolled or stacked.
        layer_decay: See ``finetune_optimizer``.

    Returns:
        A tree like ``params`` of numbers; of arrays [n, 1, ...] where blocks are stacked.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    depth = max((_depth(_names(path), leaf) for path, leaf in leaves), default=0)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _factor(_names(path), leaf, layer_decay, depth), params
    )


def decays(params: Params) -> Tree:
    """Which leaves weight decay acts on in fine-tuning.

    Biases, the scales of norms, tokens and positions do not decay, as in MAE's fine-tuning. Names
    tell them, since the number of axes differs between stacked and unrolled blocks.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: _names(path)[-1] not in _NEVER_DECAYS, params
    )


def in_encoder(params: Params) -> Tree:
    """Which leaves belong to the encoder."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _names(path)[0] == _ENCODER, params)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(entry.key for entry in path)


def _depth(names: tuple[str, ...], leaf: jax.Array) -> int:
    """The number of blocks that a leaf shows to exist."""
    if names[:2] != (_ENCODER, _BLOCKS):
        return 0
    return leaf.shape[0] if names[2] == _STACKED else _number(names[2]) + 1


def _factor(
    names: tuple[str, ...], leaf: jax.Array, layer_decay: float, depth: int
) -> float | jax.Array:
    if names[:2] == (_ENCODER, _BLOCKS):
        if names[2] == _STACKED:
            powers = jnp.arange(depth, 0, -1.0).reshape(depth, *(1,) * (leaf.ndim - 1))
            return jnp.asarray(layer_decay**powers)
        return float(layer_decay ** (depth - _number(names[2])))
    if names[0] == _ENCODER and names[1] in _EMBEDDINGS:
        return float(layer_decay ** (depth + 1))
    return 1.0


def _number(block: str) -> int:
    return int(block.removeprefix(f"{_STACKED}_"))
