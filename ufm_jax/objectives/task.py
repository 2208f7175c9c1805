"""The objective of a task: network, loss and prediction, for the engine and the evaluation."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.data.labels.task import Task
from ufm_jax.fed.algorithm import LossFn, Params, Tree
from ufm_jax.models.classifier import Classifier
from ufm_jax.models.segmenter import Segmenter
from ufm_jax.objectives import diagnosis, segmentation
from ufm_jax.objectives.views import patches_of, plain_views

_TARGETS = {"single": "label", "multi": "labels", "segment": "mask"}
"""The field of a stored row that holds the target."""


class Objective(NamedTuple):
    """What is trained, and how the result predicts.

    Attributes:
        fields: Fields of a stored row that the loss reads.
        network: The model.
        init: ``key -> params``, fresh and float32.
        loss_fn: ``(params, batch, keys) -> losses [B]``, on augmented images.
        predict: ``(params, batch) -> probabilities`` of whole images, without augmentation;
            ``batch`` has 'image' [B, S, S, C] and 'extent' [B, 2]. Diagnosis: [B, C], of sum 1 for
            a single-label task. Segmentation: [B, P, P, 1 + C], the background first, where P is
            the side of the square into which the whole picture is squeezed.
    """

    fields: tuple[str, ...]
    network: Classifier | Segmenter
    init: Callable[[jax.Array], Params]
    loss_fn: LossFn
    predict: Callable[[Params, Tree], jax.Array]


def make_objective(
    config: FinetuneConfig, task: Task, class_weights: np.ndarray | None = None
) -> Objective:
    """The objective of a task.

    Args:
        config: Network, augmentation and loss.
        task: Its kind and classes.
        class_weights: Those of ``LabelledData.class_weights``; None for equal weights.
    """
    segments, model = task.kind == "segment", config.model
    of_kind = segmentation if segments else diagnosis
    network = of_kind.make_network(model, task)
    to_probabilities = of_kind.make_probabilities(task)
    loss_fn = of_kind.make_loss(network, config, task, class_weights)

    def init(key: jax.Array) -> Params:
        shape = (1, model.grid[0] * model.grid[1], model.patch_size**2 * model.channels)
        params = jax.jit(network.init)(key, jnp.zeros(shape))["params"]
        return segmentation.with_prior(params, task, class_weights) if segments else params

    def predict(params: Params, batch: Tree) -> jax.Array:
        views = plain_views(batch, model.image_size)

        def run(pictures: jax.Array) -> jax.Array:
            logits = network.apply({"params": params}, patches_of(pictures, model))
            return to_probabilities(logits)

        if not config.evaluation.mirror:
            return run(views)
        mirrored = run(views[:, :, ::-1])
        return (run(views) + (mirrored[:, :, ::-1] if segments else mirrored)) / 2

    return Objective(
        fields=("image", "extent", _TARGETS[task.kind]),
        network=network,
        init=init,
        loss_fn=_without_encoder(loss_fn) if config.method == "frozen" else loss_fn,
        predict=predict,
    )


def _without_encoder(loss_fn: LossFn) -> LossFn:
    """The loss with a zero gradient for the encoder, so that clipping does not measure it."""

    def loss(params: Params, batch: Tree, keys: jax.Array) -> jax.Array:
        encoder = jax.lax.stop_gradient(params["encoder"])
        return loss_fn(params | {"encoder": encoder}, batch, keys)

    return loss
