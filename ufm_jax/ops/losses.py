"""The loss of the masked autoencoder.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022: mean squared error over
the pixels of hidden patches, whose targets may be normalised by their own mean and variance.
"""

import jax
import jax.numpy as jnp

_EPS = 1e-6


def masked_patch_loss(
    pred: jax.Array, target: jax.Array, mask: jax.Array, normalise_target: bool
) -> jax.Array:
    """Mean squared error of one image over its hidden patches.

    The published loss averages over the hidden patches of a batch. It equals the mean of this loss
    over images, since every image hides the same number of patches.

    Args:
        pred: [N, P * P * C] predicted patches.
        target: [N, P * P * C] patches of the clean image.
        mask: [N], 1 = hidden. The loss is 0 if nothing is hidden.
        normalise_target: Whether to compare with ``normalise_patches(target)``.

    Returns:
        float32 scalar.

    Raises:
        ValueError: If the shapes do not belong together.
    """
    if pred.ndim != 2 or pred.shape != target.shape or mask.shape != pred.shape[:1]:
        raise ValueError(
            "masked_patch_loss takes pred and target [N, P * P * C] and mask [N], got shapes "
            f"{pred.shape}, {target.shape} and {mask.shape}"
        )
    pred, target, mask = (x.astype(jnp.float32) for x in (pred, target, mask))
    if normalise_target:
        target = normalise_patches(target)
    error = jnp.square(pred - target).mean(axis=-1)
    return jnp.sum(error * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def normalise_patches(patches: jax.Array) -> jax.Array:
    """Patches normalised by themselves: (x - mean) / sqrt(var + 1e-6) with unbiased variance.

    Args:
        patches: [..., N, P * P * C].

    Returns:
        float32 of the same shape.

    Raises:
        ValueError: If a patch is a single number, which has no variance.
    """
    mean, std = _statistics(patches)
    return (patches.astype(jnp.float32) - mean) / std


def denormalise_patches(patches: jax.Array, reference: jax.Array) -> jax.Array:
    """Patches with ``reference``'s mean and variance: inverts ``normalise_patches(reference)``.

    Args:
        patches: [..., N, P * P * C] patches on the normalised scale, as a model predicts them.
        reference: [..., N, P * P * C] patches with the original mean and variance.

    Returns:
        float32 of the same shape.

    Raises:
        ValueError: If the shapes differ, or a patch is a single number.
    """
    if patches.shape != reference.shape:
        raise ValueError(
            f"patches and reference must agree, got shapes {patches.shape} and {reference.shape}"
        )
    mean, std = _statistics(reference)
    return patches.astype(jnp.float32) * std + mean


def _statistics(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and sqrt(var + 1e-6) of each patch, float32 [..., N, 1]."""
    if patches.ndim < 2 or patches.shape[-1] < 2:
        raise ValueError(
            f"patches are [..., N, P * P * C] with two numbers or more each, got {patches.shape}"
        )
    patches = patches.astype(jnp.float32)
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, ddof=1, keepdims=True)
    return mean, jnp.sqrt(variance + _EPS)
