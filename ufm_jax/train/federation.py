"""From the sections of a configuration to a federation: for pretraining and fine-tuning alike."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy.typing as npt
import optax

from ufm_jax.config.compatibility import check_clients
from ufm_jax.config.training import PlacementConfig, TrainingConfig
from ufm_jax.data.federated import FederatedData
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import LossFn
from ufm_jax.fed.asynchronous.algorithm import Asynchronous, polynomial
from ufm_jax.fed.asynchronous.federation import AsyncFederation
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import Placement, make_placement
from ufm_jax.train.algorithm import Optimizers, make_aggregator, make_algorithm, make_gradient
from ufm_jax.train.feed import images_at_once
from ufm_jax.train.lanes.probe import device_memory, host_memory
from ufm_jax.train.optimizers import lr_factor
from ufm_jax.train.participation import make_clock, make_participation

_CHUNK_SHARE = 1 / 16
"""Share of a device's memory that the images of a chunk take at most."""

_BYTES_A_SLOT = 64
"""A row number, and what sorting it takes."""


def build_placement(config: PlacementConfig) -> Placement:
    """The devices and lanes that a configuration asks for."""
    return make_placement(
        config.devices or None,
        config.lanes,
        data_parallel=config.data_parallel,
    )


def build_federation(
    config: TrainingConfig,
    data: FederatedData,
    loss_fn: LossFn,
    client: optax.GradientTransformation,
    server: optax.GradientTransformation,
    memory: float | None = None,
) -> Federation:
    """The federation that a configuration describes over ``data``.

    Args:
        config: Clients, rounds, local work, the method, devices, and where the images live.
        data: The clients' images.
        loss_fn: ``(params, batch, keys) -> losses [B]``.
        client: The clients' optimiser at its peak rate, made from ``config.client_optimizer``.
        server: The server's.
        memory: Bytes of a device; None for what the devices say.

    Raises:
        ConfigError: If a cohort is larger than the population, or a round does not fit the memory.
        ValueError: If the parts do not fit.
    """
    federation = describe_federation(config, data.names, data.offsets, loss_fn, client, server)
    return fitted(federation, config.placement, data, memory)


def describe_federation(
    config: TrainingConfig,
    names: tuple[str, ...],
    offsets: npt.ArrayLike,
    loss_fn: LossFn,
    client: optax.GradientTransformation,
    server: optax.GradientTransformation,
) -> Federation:
    """The federation that a configuration describes, wherever its images are.

    Args:
        config: See ``build_federation``; as for the other arguments.
        names: The K clients.
        offsets: [K + 1] client k owns the rows ``offsets[k] .. offsets[k + 1]``.
        loss_fn: The loss.
        client: The clients' optimiser.
        server: The server's.
    """
    method, num_clients = config.federation, len(names)
    check_clients(method, num_clients)
    factor = lr_factor(config.schedule, method.rounds)
    if config.schedule.side == "server":
        # A round's factor is that of its middle, as a local step's is.
        server = optax.chain(server, optax.scale_by_schedule(lambda done: factor(done + 0.5)))
    optimizers = Optimizers(
        client,
        server,
        config.client_optimizer,
        factor if config.schedule.side == "clients" else None,
    )
    way = method.asynchronous
    make: Callable[..., Federation] = Federation
    if way.concurrency:
        make = partial(
            AsyncFederation,
            way=Asynchronous(
                way.concurrency, way.buffer, polynomial(way.power), way.towards_client
            ),
        )
    return make(
        loss_fn=loss_fn,
        algorithm=make_algorithm(method, optimizers, method.personal_paths, num_clients),
        offsets=offsets,
        batching=Batching(
            method.batch_size,
            method.local_epochs or None,
            method.local_steps or None,
            method.partial_batch,
            method.batch_sampling,
            config.placement.data_parallel * (method.privacy.microbatch or 1),
        ),
        cohort_size=method.cohort_size or None,
        participation=make_participation(method.participation, names),
        clock=make_clock(method.participation, num_clients, config.seed),
        client_weights=method.client_weights,
        aggregator=make_aggregator(method, num_clients),
        gradient=make_gradient(method),
        placement=build_placement(config.placement),
        seed=config.seed,
    )


def fitted(
    federation: Federation,
    placement: PlacementConfig,
    data: FederatedData,
    memory: float | None = None,
) -> Federation:
    """A federation whose rounds fit the devices, with its images where ``placement`` says.

    Raises:
        ConfigError: If a round does not fit the memory.
    """
    away = placement.data_home != "device"
    federation = replace(federation, examples_sharded=away or federation.algorithm.stateful)
    image_bytes = math.prod(data.store.image_shape)
    memory = memory or device_memory(federation.placement)
    federation = in_chunks(federation, placement, image_bytes, memory)
    _check_memory(federation, placement, image_bytes, memory)
    return federation


def in_chunks(
    federation: Federation, config: PlacementConfig, image_bytes: int, memory: float
) -> Federation:
    """A federation whose rounds are cut into chunks as the configuration says.

    Where it leaves the size of a chunk open, a chunk's images take a sixteenth of a device's memory
    at most: smaller chunks would only cost dispatches, and larger ones memory.

    Args:
        federation: With any chunks.
        config: Where the images live, and the size of a chunk.
        image_bytes: Bytes of a stored image.
        memory: Bytes of a device.
    """
    if config.chunk_steps or config.data_home == "device":
        return replace(federation, chunk_steps=config.chunk_steps or None)
    images_a_step = federation.placement.lanes * federation.batching.capacity
    most = memory * _CHUNK_SHARE / (images_a_step * image_bytes)
    return replace(federation, chunk_steps=max(1, int(most)))


def _check_memory(
    federation: Federation, config: PlacementConfig, image_bytes: int, memory: float
) -> None:
    """Refuses a round that cannot fit, before any of it is allocated.

    It counts the least alone: the images that a device holds, those of one step as float32, and
    what sorting the examples of a round takes on the host.
    """
    placement, steps = federation.placement, federation.limits.steps
    held = images_at_once(federation, config.data_home) * image_bytes
    if held > memory:
        raise ConfigError(
            f"config.placement.data_home={config.data_home!r}: a device would hold images of "
            f"{held / 1e9:.3g} GB, and has {memory / 1e9:.3g}; "
            + (
                "use 'host' or 'stream'"
                if config.data_home == "device"
                else "lower placement.chunk_steps, or set 0"
            )
        )
    slots = placement.lanes * federation.batching.capacity
    images = slots // placement.data_parallel * 4 * image_bytes
    order = slots * steps * placement.num_devices * _BYTES_A_SLOT
    for needed, available, what in (
        (images, memory, "the images of one step"),
        (order, host_memory(), f"the order of the examples of {steps} steps"),
    ):
        if needed > available:
            raise ConfigError(
                f"config.federation.batch_size={federation.batching.batch_size} with "
                f"placement.lanes={placement.lanes}: {what} would take {needed / 1e9:.3g} GB, and "
                f"there are {available / 1e9:.3g}; lower one of them, local_epochs or local_steps"
            )
