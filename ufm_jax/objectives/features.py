"""The features of whole pictures that probes read, and a new head."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ufm_jax.config.model import EncoderConfig
from ufm_jax.fed.algorithm import Params, Tree
from ufm_jax.models.classifier import Classifier
from ufm_jax.models.sizes import SIZES
from ufm_jax.objectives.views import patches_of, plain_views


def make_features(model: EncoderConfig) -> Callable[[Params, Tree], jax.Array]:
    """A function ``(params, batch) -> float32 [B, D]``: the normalised mean of the patch tokens.

    It is what a fresh ``Classifier`` gives its head. ``params`` hold an 'encoder'; other parts,
    such as a decoder, are not read. ``batch`` has 'image' uint8 [B, S, S, C] and 'extent' int32
    [B, 2].
    """
    size = SIZES[model.size]
    network = Classifier(size, model.grid, num_classes=1, execution=model.execution)
    norm = {"scale": jnp.ones(size.width), "bias": jnp.zeros(size.width)}

    def features(params: Params, batch: Tree) -> jax.Array:
        patches = patches_of(plain_views(batch, model.image_size), model)
        read = {"encoder": params["encoder"], "norm": norm}
        pooled: jax.Array = network.apply({"params": read}, patches, method="features")  # type: ignore[assignment]
        return pooled.astype(jnp.float32)

    return features
