"""Diagnosis: the classes of an image from its pooled feature.

The recipe is MAE's fine-tuning (He et al., "Masked Autoencoders Are Scalable Vision Learners",
2022): mean of the patch tokens, label smoothing, mixup and cutmix, random erasing, stochastic
depth. The scanner's knobs (``ops.ultrasound``) replace RandAugment's colour operations, which are
made for photographs. Everything here runs inside the compiled round.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.config.finetuning import FinetuneConfig, NetworkConfig, TrainingViewConfig
from ufm_jax.data.labels.task import Task
from ufm_jax.fed.algorithm import LossFn, Params, Tree
from ufm_jax.fed.keys import fold
from ufm_jax.models.classifier import Classifier
from ufm_jax.models.sizes import SIZES
from ufm_jax.objectives.views import patches_of, training_logits
from ufm_jax.ops.classification_losses import (
    class_targets,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from ufm_jax.ops.joint import draw_move, move_image
from ufm_jax.ops.mixing import mix, mix_targets, partners, random_erase
from ufm_jax.ops.ultrasound import ultrasound_augment


def make_network(model: NetworkConfig, task: Task) -> Classifier:
    """The classifier of a task."""
    return Classifier(
        size=SIZES[model.size],
        grid=model.grid,
        num_classes=task.num_classes,
        pool=model.pool,
        learned_position=model.learned_position,
        drop_path=model.drop_path,
        execution=model.execution,
    )


def make_probabilities(task: Task) -> Callable[[jax.Array], jax.Array]:
    """``logits [B, C] -> probabilities``: softmax, or a sigmoid for each finding."""
    return jax.nn.sigmoid if task.kind == "multi" else jax.nn.softmax


def make_view(key: jax.Array, example: Tree, size: int, augment: TrainingViewConfig) -> jax.Array:
    """One stored image, augmented: float32 [size, size, C] in 0..255.

    Args:
        key: Everything random about this view.
        example: 'image' uint8 [S, S, C] and 'extent' int32 [2].
        size: Side of the view, pixels.
        augment: Augmentation.
    """
    move = draw_move(fold(key, "move"), example["extent"], augment.moves)
    view = move_image(example["image"], example["extent"], move, augment.moves, size)
    view = ultrasound_augment(fold(key, "ultrasound"), view, augment.ultrasound)
    return random_erase(fold(key, "erase"), view, augment.erase) if augment.erase else view


def make_loss(
    network: Classifier, config: FinetuneConfig, task: Task, class_weights: np.ndarray | None
) -> LossFn:
    """The objective as the engine takes it: ``(params, batch, keys) -> losses [B]``."""
    augment, loss = config.augment, config.loss
    weights = _tempered(class_weights, loss.class_weights, task)
    of_example = sigmoid_cross_entropy if task.kind == "multi" else softmax_cross_entropy

    def targets_of(batch: Tree) -> jax.Array:
        if task.kind == "multi":
            return batch["labels"].astype(jnp.float32)
        spread = lambda label: class_targets(label, task.num_classes, loss.label_smoothing)  # noqa: E731
        return jax.vmap(spread)(batch["label"])

    def loss_fn(params: Params, batch: Tree, keys: jax.Array) -> jax.Array:
        pictures = {name: batch[name] for name in ("image", "extent")}
        size = config.model.image_size
        views = jax.vmap(lambda k, x: make_view(k, x, size, augment))(keys, pictures)
        targets = targets_of(batch)
        if augment.mixing.mixup or augment.mixing.cutmix:
            mixed = jax.vmap(lambda k, a, b: mix(fold(k, "mix"), a, b, augment.mixing))(
                keys, views, partners(views)
            )
            views = mixed.image
            targets = jax.vmap(mix_targets)(targets, partners(targets), mixed.share)
        logits = training_logits(network, params, patches_of(views, config.model), keys)
        return jax.vmap(lambda x, t: of_example(x, t, weights))(logits, targets)

    return loss_fn


def _tempered(class_weights: np.ndarray | None, power: float, task: Task) -> jax.Array | None:
    """Weights [C] to a power; for single labels they average 1 over the training images."""
    if class_weights is None or not power:
        return None
    present = class_weights > 0
    weights = np.where(present, np.where(present, class_weights, 1) ** power, 0)
    if task.kind == "single":
        # Weights are n / (C n_c), hence 1 / (C w_c) is a class's share of the images.
        shares = np.where(present, 1 / (task.num_classes * np.where(present, class_weights, 1)), 0)
        weights = weights / (weights * shares).sum()
    return jnp.asarray(weights, jnp.float32)
