"""Losses of classification for one example, from logits.

Softmax cross entropy against one label or a mixture of them, with label smoothing (Szegedy et al.,
"Rethinking the Inception Architecture", 2016), and sigmoid cross entropy for labels that do not
exclude each other, some of which may be unknown.
"""

import jax
import jax.numpy as jnp


def class_targets(label: jax.Array, num_classes: int, smoothing: float = 0.0) -> jax.Array:
    """Target probabilities of a label: 1 - smoothing, plus smoothing spread over all classes.

    Args:
        label: int [], from 0; negative if unknown.
        num_classes: C.
        smoothing: Probability to spread, in [0, 1).

    Returns:
        float32 [C] of sum 1. An unknown label has all 0, and hence no loss.

    Raises:
        ValueError: If the smoothing is out of range.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing={smoothing} of labels: use a value from 0 to below 1")
    one_hot = jax.nn.one_hot(label, num_classes, dtype=jnp.float32)
    smoothed = one_hot * (1.0 - smoothing) + smoothing / num_classes
    return jnp.where(label >= 0, smoothed, 0.0)


def softmax_cross_entropy(
    logits: jax.Array, targets: jax.Array, class_weights: jax.Array | None = None
) -> jax.Array:
    """``-sum_c w_c t_c log softmax(logits)_c``.

    It is not divided by the weights' sum, which would cancel the weight of a plain label. Weights
    that average 1 over the training images keep the scale of the mean loss.

    Args:
        logits: [C].
        targets: [C] probabilities, from ``class_targets`` or mixtures of them.
        class_weights: [C]; None for equal weights.

    Returns:
        float32 scalar.

    Raises:
        ValueError: If the shapes differ.
    """
    _check("softmax_cross_entropy", logits, targets, class_weights)
    weighted = targets.astype(jnp.float32)
    if class_weights is not None:
        weighted = weighted * class_weights.astype(jnp.float32)
    return -jnp.sum(weighted * jax.nn.log_softmax(logits.astype(jnp.float32)))


def sigmoid_cross_entropy(
    logits: jax.Array, labels: jax.Array, positive_weights: jax.Array | None = None
) -> jax.Array:
    """Mean over the known labels of ``-w_c t_c log s(x_c) - (1 - t_c) log s(-x_c)``, s the sigmoid.

    Args:
        logits: [C].
        labels: [C] from 0 to 1; NaN where unknown.
        positive_weights: [C], w_c: weight of a class's positive images, such as its negatives over
            its positives; None for 1.

    Returns:
        float32 scalar; 0, with a gradient of 0, if no label is known.

    Raises:
        ValueError: If the shapes differ.
    """
    _check("sigmoid_cross_entropy", logits, labels, positive_weights)
    known = ~jnp.isnan(labels)
    # NaN is replaced before the arithmetic: if it is masked afterwards, its gradient is still NaN.
    target = jnp.where(known, labels, 0.0).astype(jnp.float32)
    logits = logits.astype(jnp.float32)
    positive = target if positive_weights is None else target * positive_weights
    losses = -positive * jax.nn.log_sigmoid(logits) - (1 - target) * jax.nn.log_sigmoid(-logits)
    return jnp.sum(losses * known) / jnp.maximum(known.sum(), 1)


def _check(
    name: str, logits: jax.Array, targets: jax.Array, weights: jax.Array | None = None
) -> None:
    shapes = [a.shape for a in (logits, targets, weights) if a is not None]
    if logits.ndim != 1 or len(set(shapes)) > 1:
        raise ValueError(f"{name} takes one example's [C] of each, got shapes {shapes}")
