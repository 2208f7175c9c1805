"""Losses of segmentation for one example, from logits.

The loss is the mean of a cross entropy over pixels plus the mean of a Dice loss over classes
(Milletari et al., "V-Net", 2016; the sum as in Isensee et al., "nnU-Net", 2021). The Dice loss of a
class with probabilities p and target t over an example's pixels is

    1 - 2 sum(p t) / (sum(p) + sum(t))    if the class has a pixel, and    mean(p)    otherwise.

The denominator is at least 1, and needs no smoothing constant. For an absent class the first form
would be 1 whatever is predicted; with a constant it would be flat unless sum(p) is about the
constant. The mean is the share of pixels predicted in error, and its gradient is as large as the
cross entropy's. Pixels of ``IGNORED`` in the mask have no influence.
"""

import jax
import jax.numpy as jnp

IGNORED = 255
"""The value of mask pixels that are outside the picture or not annotated."""


def segmentation_loss(
    logits: jax.Array,
    mask: jax.Array,
    dice_weight: float = 1.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Cross entropy plus ``dice_weight`` times the mean Dice loss of the foreground classes.

    Args:
        logits: [H, W, C]. C = 1 has one foreground class, through a sigmoid; C > 1 has the
            background (class 0) and the foreground classes, through a softmax.
        mask: [H, W] class numbers, from 0, and ``IGNORED``. Numbers from max(C, 2) on count as
            ignored.
        dice_weight: Weight of the Dice loss; 0 for cross entropy alone.
        class_weights: [max(C, 2)] weights of the classes' pixels in the cross entropy; None for
            equal weights. See ``pixel_cross_entropy``.

    Returns:
        float32 scalar; 0, with a gradient of 0, if every pixel is ignored.

    Raises:
        ValueError: If the shapes do not belong together, or the weight is negative.
    """
    if dice_weight < 0:
        raise ValueError(f"dice_weight={dice_weight} of a segmentation loss: use 0 or more")
    loss = pixel_cross_entropy(logits, mask, class_weights)
    if dice_weight:
        loss = loss + dice_weight * dice_losses(logits, mask).mean()
    return loss


def pixel_cross_entropy(
    logits: jax.Array, mask: jax.Array, class_weights: jax.Array | None = None
) -> jax.Array:
    """Mean cross entropy over the pixels that count: binary for C = 1, categorical for more.

    With class weights it is the weighted mean, sum(w e) / sum(w). Weights shift attention between
    classes within an example, but not between examples. Arguments are those of
    ``segmentation_loss``.
    """
    log_probabilities = _log_probabilities(logits, mask)
    weights = _one_hot(mask, log_probabilities.shape[-1])
    if class_weights is not None:
        if class_weights.shape != weights.shape[-1:]:
            raise ValueError(
                f"class_weights {class_weights.shape} of logits {logits.shape}: "
                f"give {weights.shape[-1]} numbers, the background's first"
            )
        weights = weights * class_weights.astype(jnp.float32)
    total = weights.sum()
    return -jnp.sum(weights * log_probabilities) / jnp.where(total > 0, total, 1.0)


def dice_losses(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Dice loss float32 [max(C - 1, 1)] of each foreground class; see ``segmentation_loss``."""
    log_probabilities = _log_probabilities(logits, mask)
    targets = _one_hot(mask, log_probabilities.shape[-1])
    counts = targets.sum(axis=-1, keepdims=True)
    foreground = targets[..., 1:]
    probabilities = jnp.exp(log_probabilities[..., 1:]) * counts
    overlap = jnp.sum(foreground * probabilities, axis=(0, 1))
    predicted, there = probabilities.sum(axis=(0, 1)), foreground.sum(axis=(0, 1))
    present = there > 0
    # The denominator must not be 0 even if its form is not selected: the gradient would be NaN.
    dice = 2.0 * overlap / jnp.where(present, predicted + there, 1.0)
    return jnp.where(present, 1.0 - dice, predicted / jnp.maximum(counts.sum(), 1.0))


def _log_probabilities(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """float32 [H, W, max(C, 2)] logarithms of the probabilities; the background comes first."""
    if logits.ndim != 3 or mask.shape != logits.shape[:2]:
        raise ValueError(
            "a segmentation loss takes logits [H, W, C] and a mask [H, W] of one example, "
            f"got {logits.shape} and {mask.shape}"
        )
    logits = logits.astype(jnp.float32)
    if logits.shape[-1] == 1:
        return jax.nn.log_sigmoid(jnp.concatenate([-logits, logits], axis=-1))
    return jax.nn.log_softmax(logits, axis=-1)


def _one_hot(mask: jax.Array, num_classes: int) -> jax.Array:
    """float32 [H, W, num_classes]; all 0 at an ignored pixel."""
    return jax.nn.one_hot(mask.astype(jnp.int32), num_classes, dtype=jnp.float32)
