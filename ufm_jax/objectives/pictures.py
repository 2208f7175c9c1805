"""Reconstructions of a few images, as pictures for the report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np

from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.data.federated import FederatedData
from ufm_jax.fed.algorithm import Params, Tree
from ufm_jax.objectives.reconstruction import (
    FIELDS,
    View,
    held_out_views,
    make_model,
    reconstruct,
    to_patches,
)
from ufm_jax.ops.losses import denormalise_patches
from ufm_jax.ops.normalise import denormalise
from ufm_jax.ops.patches import unpatchify

_HIDDEN_GREY = 127.0


@dataclass(frozen=True)
class Pictures:
    """Example images at the end of a run: n examples with gh x gw patches.

    Images are uint8, [n, H, W] grey or [n, H, W, 3] colour, all of one H and W.

    Attributes:
        masked: ``clean`` with the hidden patches blanked: what the encoder sees.
        reconstruction: The model's output, in the original grey scale, in the hidden patches, and
            ``clean`` in the others.
        clean: The whole pictures, squeezed into squares.
        texture_score: float [n, gh, gw], the texture score of each patch of ``clean``.
        mask: [n, gh, gw], 1 = hidden.
        captions: n texts, usually the clients' names.
        thumbnails: Client name -> uint8 [h, w] or [h, w, 3], the client's first image.
    """

    masked: np.ndarray
    reconstruction: np.ndarray
    clean: np.ndarray
    texture_score: np.ndarray
    mask: np.ndarray
    captions: list[str]
    thumbnails: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        """Checks shapes and types.

        Raises:
            ValueError: If a field's type or shape does not fit; names the field.
        """
        count, size = len(self.captions), self.clean.shape[1:3]
        for name in ("masked", "reconstruction", "clean"):
            image = getattr(self, name)
            _check_image(f"Pictures.{name}", image, leading=1)
            if image.shape[0] != count or image.shape[1:3] != size:
                raise ValueError(
                    f"Pictures.{name} has shape {image.shape}; with {count} captions and clean "
                    f"images of {size} it must begin with {(count, *size)}."
                )
        for name in ("texture_score", "mask"):
            grid = getattr(self, name)
            if grid.ndim != 3 or grid.shape[0] != count or grid.shape != self.mask.shape:
                raise ValueError(
                    f"Pictures.{name} has shape {grid.shape}; texture_score and mask must both be "
                    f"[{count}, gh, gw]."
                )
        for client, thumbnail in self.thumbnails.items():
            _check_image(f"Pictures.thumbnails[{client!r}]", thumbnail, leading=0)


def make_pictures(
    config: PretrainConfig,
    data: FederatedData,
    params_of: Callable[[str], Params],
    count: int = 8,
) -> Pictures:
    """Reconstructions of one image of each of ``count`` clients, spread over the federation.

    Whole pictures, masked as they are where the model is judged: always alike.

    Args:
        config: The run's configuration.
        data: Its images; those that are held out are shown, where there are any.
        params_of: The parameters of the model that a client uses, by its name.
        count: Images at most.
    """
    shown, model = data.held_out or data, config.model
    clients = np.unique(np.linspace(0, shown.num_clients - 1, count).round().astype(int))
    stored = shown.store.read(np.array([_a_row(shown, client) for client in clients]))

    @jax.jit
    def run(params: Params, batch: Tree) -> tuple[View, jax.Array]:
        views = held_out_views(batch, model)
        prediction = reconstruct(make_model(model), model, params, views)
        return views, _to_images(config, prediction, views)

    found = []
    for n, client in enumerate(clients):
        one = {name: stored[name][n : n + 1] for name in FIELDS}
        found.append(jax.device_get(run(params_of(shown.names[client]), one)))
    views, reconstruction = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    hidden = _spread(views.masking.mask.reshape(-1, *model.grid), model.patch_size)[..., None] > 0
    thumbnails = data.store.read(data.offsets[:-1])
    return Pictures(
        masked=_picture(np.where(hidden, _HIDDEN_GREY, views.clean)),
        reconstruction=_picture(np.where(hidden, reconstruction, views.clean)),
        clean=_picture(views.clean),
        texture_score=views.scores.reshape(-1, *model.grid),
        mask=views.masking.mask.reshape(-1, *model.grid),
        captions=[shown.names[client] for client in clients],
        thumbnails={
            name: _picture(image[: extent[0], : extent[1]])
            for name, image, extent in zip(
                data.names, thumbnails["image"], thumbnails["extent"], strict=True
            )
        },
    )


def _a_row(data: FederatedData, client: int) -> int:
    """The row of a client's middle image, since the first of a set is often an odd one."""
    return int(data.offsets[client] + data.offsets[client + 1]) // 2


def _to_images(config: PretrainConfig, prediction: jax.Array, views: View) -> jax.Array:
    """The model's prediction as images in 0..255, in the storage's channels.

    If the target is normalised patch by patch, mean and variance come from the clean image, since
    the model does not predict them.
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


def _check_image(name: str, image: np.ndarray, *, leading: int) -> None:
    """Requires uint8, ``leading`` axes and then [H, W] or [H, W, 3]."""
    spatial = image.shape[leading:]
    if image.dtype != np.uint8 or not (
        len(spatial) == 2 or (len(spatial) == 3 and spatial[2] == 3)
    ):
        raise ValueError(
            f"{name} is {image.dtype} {image.shape}; it must be uint8 and end in [H, W] or "
            "[H, W, 3]. Undo the normalisation, round and clip to 0..255 first."
        )
