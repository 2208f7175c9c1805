"""What the model makes of a few images, as pictures for the report."""

import jax
import numpy as np

from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.data.federated import FederatedData
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.keys import fold
from ufm_jax.objectives.reconstruction import (
    FIELDS,
    View,
    make_model,
    make_view,
    reconstruct,
    to_patches,
)
from ufm_jax.ops.losses import denormalise_patches
from ufm_jax.ops.normalise import denormalise
from ufm_jax.ops.patches import unpatchify
from ufm_jax.report.run_info import Pictures

_HIDDEN_GREY = 127.0


def make_pictures(
    config: PretrainConfig, data: FederatedData, params: Params, count: int = 8
) -> Pictures:
    """Reconstructs one image of each of ``count`` clients, spread over the federation.

    The same images are drawn, cropped and masked in the same way at every call of one run.

    Args:
        config: The run's configuration.
        data: Its images.
        params: The model's parameters.
        count: Images at most.
    """
    clients = np.unique(np.linspace(0, data.num_clients - 1, count).round().astype(int))
    rows = np.array([_a_row(data, client) for client in clients])
    stored = data.store.read(rows)
    batch = {name: stored[name] for name in FIELDS}
    key = fold(jax.random.key(config.seed), "pictures")

    @jax.jit
    def run(params: Params, batch: dict[str, jax.Array]) -> tuple[View, jax.Array]:
        keys = jax.random.split(key, len(rows))
        views = jax.vmap(lambda k, x: make_view(k, x, config.model, config.augment))(keys, batch)
        return views, _to_images(
            config, reconstruct(make_model(config.model), config.model, params, views), views
        )

    views, reconstruction = jax.device_get(run(params, batch))
    grid = (config.model.image_size // config.model.patch_size,) * 2
    hidden = _spread(views.masking.mask.reshape(-1, *grid), config.model.patch_size)
    thumbnails = data.store.read(data.offsets[:-1])
    return Pictures(
        input=_picture(views.degraded),
        masked=_picture(np.where(hidden[..., None] > 0, _HIDDEN_GREY, views.degraded)),
        reconstruction=_picture(np.where(hidden[..., None] > 0, reconstruction, views.clean)),
        clean=_picture(views.clean),
        texture_score=views.scores.reshape(-1, *grid),
        mask=views.masking.mask.reshape(-1, *grid),
        captions=[data.names[client] for client in clients],
        thumbnails={
            name: _picture(image[: extent[0], : extent[1]])
            for name, image, extent in zip(
                data.names, thumbnails["image"], thumbnails["extent"], strict=True
            )
        },
    )


def _a_row(data: FederatedData, client: int) -> int:
    """The middle image of a client: the first of a set is often an odd one."""
    return int(data.offsets[client] + data.offsets[client + 1]) // 2


def _to_images(config: PretrainConfig, prediction: jax.Array, views: View) -> jax.Array:
    """The model's prediction as images in 0..255, in the storage's channels.

    Where the target is normalised patch by patch, mean and variance come from the clean image: the
    model is not asked for them.
    """
    model = config.model
    if model.normalise_target:
        prediction = denormalise_patches(prediction, to_patches(views.clean, model))
    pixels = unpatchify(prediction, model.patch_size, model.image_size, model.image_size)
    pixels = denormalise(pixels)
    if views.clean.shape[-1] == 1:
        pixels = pixels.mean(axis=-1, keepdims=True)
    return pixels


def _spread(grid: np.ndarray, patch_size: int) -> np.ndarray:
    return np.kron(grid, np.ones((1, patch_size, patch_size)))


def _picture(images: np.ndarray) -> np.ndarray:
    """uint8 pictures [..., H, W] of grey and [..., H, W, 3] of colour images."""
    pixels = np.clip(np.round(images), 0, 255).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
