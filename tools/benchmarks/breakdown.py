"""Where a round's time goes: the same round without one of its parts, timed in turn with it."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tools.benchmarks.images import dealt
from tools.benchmarks.measure import Row, interleaved, share_saved, timed
from tools.benchmarks.workload import Size, Workload, run_config
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import AugmentConfig
from ufm_jax.config.training import OptimizerConfig
from ufm_jax.data.federated import FederatedData
from ufm_jax.fed.algorithm import LossFn, Params, Tree
from ufm_jax.fed.keys import fold
from ufm_jax.fed.placement import make_placement
from ufm_jax.objectives.reconstruction import View, make_model, reconstruct, to_patches
from ufm_jax.ops.losses import masked_patch_loss
from ufm_jax.ops.masking import texture_mask
from ufm_jax.ops.texture import texture_scores

CLIENTS_PER_LANE = 4

WHOLE = "whole round"
AUGMENTATION = "augmentation"
DEGRADING = "of it, degradation and scan conversion"
OPTIMISER = "optimiser"
AGGREGATION = "aggregation"

NOTES = (
    f"share: what a round is shorter by without the part, timed in turn with the {WHOLE}; median, "
    "least and most over the repeats. XLA fuses over the borders of parts, so they need not add "
    "up, and a share below the spread is noise. All rounds train on as many images, in as many "
    f"equal clients, {CLIENTS_PER_LANE} a lane one after the other.",
    f"{AUGMENTATION}: against the stored image's corner in place of crop, flip, degradation and "
    f"scan conversion; masking by texture stays. {OPTIMISER}: AdamW against plain SGD, which adds "
    "the gradient and keeps nothing.",
    f"{AGGREGATION}: a client's start, its end and its part of the mean. Found from one client a "
    f"lane that takes the steps of all {CLIENTS_PER_LANE}: it saves {CLIENTS_PER_LANE - 1} of "
    f"{CLIENTS_PER_LANE} starts and ends, hence the share is {CLIENTS_PER_LANE} / "
    f"{CLIENTS_PER_LANE - 1} of what is saved. It falls as clients have more steps.",
)


class _Clients(NamedTuple):
    """Equal clients: how many, and the local steps of each."""

    number: int
    steps: int


def breakdown_rows(
    options: argparse.Namespace, data: FederatedData, size: Size, lanes: int
) -> Iterator[Row]:
    """One row a part.

    Args:
        options: Model, batch and repeats.
        data: Images, which are dealt to equal clients.
        size: Of the encoder.
        lanes: Of each device.

    Raises:
        ValueError: If images are stored smaller than the model takes them.
    """
    print(f"measuring shares, {size}, {lanes} lanes", flush=True)
    everywhere = make_placement(None, lanes).num_devices * lanes
    steps = max(1, data.num_rows // (CLIENTS_PER_LANE * everywhere * options.batch_size))
    clients = _Clients(CLIENTS_PER_LANE * everywhere, steps)
    with ExitStack() as stack:
        sides = {
            name: timed(stack.enter_context(closing(side)).run)
            for name, side in _sides(options, data, size, lanes, clients)
        }
        seconds = interleaved(sides, options.repeats)
    for name, values in seconds.items():
        factor = CLIENTS_PER_LANE / (CLIENTS_PER_LANE - 1) if name == AGGREGATION else 1.0
        shares = [factor * share for share in share_saved(values, seconds[WHOLE])]
        if name == WHOLE:
            shares = [1.0]
        yield {
            "size": size,
            "lanes": lanes,
            "clients x steps": f"{clients.number} x {clients.steps}",
            "part": name,
            "share": round(float(np.median(shares)), 3),
            "from": round(min(shares), 3),
            "to": round(max(shares), 3),
            "round without it, s": "" if name == WHOLE else round(float(np.median(values)), 4),
            "round, s": round(float(np.median(seconds[WHOLE])), 4),
        }


def _sides(
    options: argparse.Namespace, data: FederatedData, size: Size, lanes: int, clients: _Clients
) -> Iterator[tuple[str, Workload]]:
    """The whole round, and the round without each part."""
    config = run_config(options, size, lanes)
    images = dealt(data, clients.number, clients.steps * options.batch_size)
    yield WHOLE, Workload(config, images)
    yield AUGMENTATION, Workload(config, images, plain_loss(config.model))
    cheap = AugmentConfig(degrade=0.0, scan_conversion=0.0)
    yield DEGRADING, Workload(replace(config, augment=cheap), images)
    sgd = OptimizerConfig(name="sgd", betas=(0.0, 0.0), weight_decay=0.0)
    yield OPTIMISER, Workload(replace(config, client_optimizer=sgd), images)
    merged = dealt(
        data,
        clients.number // CLIENTS_PER_LANE,
        CLIENTS_PER_LANE * clients.steps * options.batch_size,
    )
    yield AGGREGATION, Workload(config, merged)


def plain_loss(model: ModelConfig) -> LossFn:
    """The objective without augmentation: the model sees the corner of the image as stored.

    Raises:
        ValueError: When traced, if images are stored smaller than the model takes them.
    """
    network, side = make_model(model), model.image_size

    def view(key: jax.Array, image: jax.Array) -> View:
        if min(image.shape[:2]) < side:
            raise ValueError(
                f"images are stored at {image.shape[:2]}, less than the {side} pixels that the "
                "model takes: raise --working_size"
            )
        clean = image[:side, :side].astype(jnp.float32)
        scores = texture_scores(clean, model.patch_size)
        masking = texture_mask(fold(key, "mask"), scores, model.mask_ratio, model.texture_strength)
        return View(clean, clean, scores, masking)

    def loss_fn(params: Params, batch: Tree, keys: jax.Array) -> jax.Array:
        views = jax.vmap(view)(keys, batch["image"])
        prediction = reconstruct(network, model, params, views)
        target = to_patches(views.clean, model)
        return jax.vmap(
            lambda p, t, m: masked_patch_loss(p, t, m, normalise_target=model.normalise_target)
        )(prediction, target, views.masking.mask)

    return loss_fn
