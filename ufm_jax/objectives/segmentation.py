"""Segmentation: the class of every pixel, from four of the encoder's blocks.

The loss is cross entropy plus Dice on logits (``ops.segmentation_losses``). Picture and mask move
together. Everything here runs inside the compiled round.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.config.finetuning import FinetuneConfig, NetworkConfig, TrainingViewConfig
from ufm_jax.data.labels.task import Task
from ufm_jax.fed.algorithm import LossFn, Params, Tree
from ufm_jax.fed.keys import fold
from ufm_jax.models.segmenter import Segmenter
from ufm_jax.models.sizes import SIZES
from ufm_jax.objectives.views import patches_of, training_logits
from ufm_jax.ops.joint import move_jointly
from ufm_jax.ops.mixing import mix, partners
from ufm_jax.ops.segmentation_losses import segmentation_loss
from ufm_jax.ops.ultrasound import ultrasound_augment


def make_network(model: NetworkConfig, task: Task) -> Segmenter:
    """The segmenter of a task, with one output for one foreground class, else one a class."""
    return Segmenter(
        size=SIZES[model.size],
        grid=model.grid,
        patch_size=model.patch_size,
        num_classes=1 if task.num_classes == 1 else 1 + task.num_classes,
        decoder=model.decoder,
        decoder_width=model.decoder_width,
        learned_position=model.learned_position,
        drop_path=model.drop_path,
        execution=model.execution,
    )


def with_prior(params: Params, task: Task, class_weights: np.ndarray | None) -> Params:
    """Parameters whose head predicts the classes' shares of the training pixels.

    Small lesions are a hundredth of a picture: a head that starts from equal probabilities spends
    hundreds of steps on learning that (Lin et al., "Focal Loss for Dense Object Detection", 2017,
    4.1).

    Args:
        params: The initial parameters.
        task: The classes.
        class_weights: [1 + C], n / ((1 + C) n_c); None changes nothing.
    """
    if class_weights is None:
        return params
    # A class without a pixel has weight 0, and starts as if it had one pixel in ten thousand.
    share = 1 / (len(class_weights) * np.where(class_weights > 0, class_weights, np.inf))
    logits = np.log(np.maximum(share, 1e-4))
    bias = logits[1:] - logits[:1] if task.num_classes == 1 else logits
    return params | {"head": params["head"] | {"bias": jnp.asarray(bias, jnp.float32)}}


def make_probabilities(task: Task) -> Callable[[jax.Array], jax.Array]:
    """``logits [B, H, W, 1 or 1 + C] -> probabilities [B, H, W, 1 + C]``."""
    if task.num_classes > 1:
        return jax.nn.softmax
    return lambda logits: jax.nn.sigmoid(jnp.concatenate([-logits, logits], axis=-1))


def make_view(
    key: jax.Array, example: Tree, size: int, augment: TrainingViewConfig
) -> tuple[jax.Array, jax.Array]:
    """One stored image and its mask, augmented.

    Args:
        key: Everything random about this view.
        example: 'image' uint8 [S, S, C], 'extent' int32 [2] and 'mask' uint8 [S, S].
        size: Side of the view, pixels.
        augment: Augmentation.

    Returns:
        float32 [size, size, C] in 0..255, and uint8 [size, size].
    """
    view, mask = move_jointly(
        fold(key, "move"),
        example["image"],
        example["mask"],
        example["extent"],
        augment.moves,
        size,
    )
    return ultrasound_augment(fold(key, "ultrasound"), view, augment.ultrasound), mask


def make_loss(
    network: Segmenter, config: FinetuneConfig, task: Task, class_weights: np.ndarray | None
) -> LossFn:
    """The objective as the engine takes it: ``(params, batch, keys) -> losses [B]``."""
    del task
    augment, loss = config.augment, config.loss
    weights = None
    if class_weights is not None and loss.class_weights:
        weights = jnp.asarray(class_weights, jnp.float32) ** loss.class_weights

    def loss_fn(params: Params, batch: Tree, keys: jax.Array) -> jax.Array:
        examples = {name: batch[name] for name in ("image", "extent", "mask")}
        size = config.model.image_size
        views, masks = jax.vmap(lambda k, x: make_view(k, x, size, augment))(keys, examples)
        if augment.mixing.cutmix:
            mixed = jax.vmap(lambda k, a, b: mix(fold(k, "mix"), a, b, augment.mixing))(
                keys, views, partners(views)
            )
            views, masks = mixed.image, jnp.where(mixed.own > 0, masks, partners(masks))
        logits = training_logits(network, params, patches_of(views, config.model), keys)
        return jax.vmap(lambda x, m: segmentation_loss(x, m, loss.dice_weight, weights))(
            logits, masks
        )

    return loss_fn
