"""A round to be compiled, made of sizes alone: no image, no parameter and no device exists.

What a compiled round depends on is shapes: of the parameters, of the stored images, and of the plan
that the host makes of the clients' sizes.
"""

import ast
import runpy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

from tools.benchmarks.models import FEATURES, MODELS, losses
from ufm_jax.config.pretraining import PretrainConfig, resolve
from ufm_jax.data.cache.store import ArrayStore
from ufm_jax.data.federated import FederatedData
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import Params, Tree, tree_bytes
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import CLIENTS, DATA, Placement
from ufm_jax.fed.plan import HostPlan
from ufm_jax.objectives.reconstruction import FIELDS, init_params
from ufm_jax.train.feed import images_at_once
from ufm_jax.train.pretraining import federate

SPREAD = 1.0
"""Standard deviation of the logarithm of the clients' sizes."""


@dataclass(frozen=True)
class Work:
    """What is to be compiled.

    Attributes:
        config: A configuration file of pretraining, perhaps with ``:argument``.
        changes: ``KEY=VALUE`` each, applied to the configuration.
        model: A small model of ``engine`` in place of the configuration; '' for none.
        images: Of all clients.
        clients: Their number; sizes are log-normal, whole batches, and add up to about ``images``.
        batch_size: Of a small model.
        lanes: Of each device.
        devices: Their number.
    """

    config: str
    changes: tuple[str, ...]
    model: str
    images: int
    clients: int
    batch_size: int
    lanes: int
    devices: int


class AbstractRound(NamedTuple):
    """A round of shapes.

    Attributes:
        federation: On devices that need not be there.
        state: Shapes of its state.
        examples: Shapes of the images on the devices.
        copies: How often a device holds such images: twice where the next round's arrive meanwhile.
        plan: Of round 0.
    """

    federation: Federation
    state: Any
    examples: Tree
    copies: int
    plan: HostPlan

    def lower(self) -> jax.stages.Lowered:
        """The round, traced."""
        return self.federation.lower(self.state, self.examples, self.plan)

    def device_bytes(self) -> dict[str, float]:
        """What the round is given on each device, bytes by part."""
        devices = self.federation.placement.num_devices
        shards = devices if self.federation.examples_sharded else 1
        return {
            "images": self.copies * tree_bytes(self.examples) / shards,
            "client states": tree_bytes(self.state.clients) / devices,
            "server": tree_bytes((self.state.server, self.state.aggregate)),
            "lanes and sums": tree_bytes(self.state.training) / devices,
        }


@dataclass(frozen=True)
class AbstractPlacement(Placement):
    """A placement on devices that need not be there: arrays on them are shapes."""

    def put(self, tree: Tree, shardings: Tree) -> Tree:
        """Shapes in the place of arrays; see ``Placement.put``."""
        return jax.tree.map(
            lambda where, part: jax.tree.map(
                lambda leaf: _shape(np.shape(leaf), np.asarray(leaf).dtype, where), part
            ),
            shardings,
            tree,
        )


def _shape(
    dims: tuple[int, ...], dtype: npt.DTypeLike, sharding: jax.sharding.NamedSharding
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)


def abstract_round(work: Work, devices: list[jax.Device], memory: float) -> AbstractRound:
    """The round of some work, or its first chunk, on some devices.

    Args:
        work: What is to be compiled.
        devices: They need not be there.
        memory: Bytes of each, by which the size of a chunk is chosen.

    Raises:
        ConfigError: If the configuration or a change of it is wrong.
        ValueError: If the parts do not go together.
    """
    return _small(work, devices) if work.model else _pretraining(work, devices, memory)


def configuration(work: Work) -> PretrainConfig:
    """The checked configuration of some work.

    Raises:
        ConfigError: If the file, a key or a value is wrong.
    """
    file, colon, argument = work.config.partition(":")
    if not Path(file).is_file():
        raise ConfigError(f"--config={file}: no such file; configs/ holds some to start from")
    config = runpy.run_path(file)["get_config"](*([argument] if colon else []))
    for change in (
        *work.changes,
        f"placement.lanes={work.lanes}",
        f"placement.devices={work.devices}",
    ):
        key, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"--set {change}: write KEY=VALUE, such as model.dtype=bfloat16")
        with config.unlocked():
            config.update_from_flattened_dict({key.removeprefix("config."): _value(value)})
    config.data.root = config.data.root or "."  # Nothing is read there.
    return resolve(config)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def client_sizes(clients: int, images: int, batch_size: int) -> npt.NDArray[np.int64]:
    """[K] log-normal numbers of images, whole batches, one at least, about ``images`` in all."""
    rng = np.random.Generator(np.random.Philox(0))
    sizes = rng.lognormal(0.0, SPREAD, clients)
    batches = np.round(sizes / sizes.sum() * images / batch_size)
    return batch_size * np.maximum(1, batches).astype(np.int64)


def _offsets(work: Work, batch_size: int) -> npt.NDArray[np.int64]:
    sizes = client_sizes(work.clients, work.images, batch_size)
    return np.concatenate([[0], np.cumsum(sizes)])


def _pretraining(work: Work, devices: list[jax.Device], memory: float) -> AbstractRound:
    config = configuration(work)
    data = _images(config, _offsets(work, config.federation.batch_size))
    federation = _moved(federate(config, data, memory), devices)
    params = jax.eval_shape(partial(init_params, config.model), jax.random.key(0))
    stored = {name: row for name, row in data.store.read(np.arange(1)).items() if name in FIELDS}
    home = config.placement.data_home
    examples = _on_devices(federation, stored, images_at_once(federation, home))
    copies = 1 if home == "device" else 2
    return _round(federation, params, examples, copies)


def _images(config: PretrainConfig, offsets: npt.NDArray[np.int64]) -> FederatedData:
    """Clients with so many images, all of them the same black one."""
    count, side = int(offsets[-1]), config.data.working_size
    channels = 1 if config.data.channels == "auto" else config.data.channels

    def rows(dtype: npt.DTypeLike, *dims: int) -> npt.NDArray[Any]:
        return np.broadcast_to(np.zeros((), dtype), (count, *dims))

    store = ArrayStore(
        rows(np.uint8, side, side, channels), rows(np.int32, 2), rows(np.float32, 7), rows(np.int32)
    )
    names = tuple(f"client_{k}" for k in range(len(offsets) - 1))
    return FederatedData(names, offsets, store)


def _small(work: Work, devices: list[jax.Device]) -> AbstractRound:
    model = MODELS[work.model]

    def loss(params: Params, batch: Tree, keys: jax.Array) -> jax.Array:
        del keys
        return losses(model.forward, params, batch)

    federation = Federation(
        loss,
        fedavg(optax.sgd(0.05)),
        _offsets(work, work.batch_size),
        Batching(work.batch_size),
    )
    federation = _moved(federation, devices, work.lanes)
    params = {name: jax.ShapeDtypeStruct(dims, jnp.float32) for name, dims in model.shapes.items()}
    stored = {"x": np.zeros((1, FEATURES), np.float32), "y": np.zeros(1, np.int32)}
    rows = int(np.asarray(federation.offsets)[-1])
    return _round(federation, params, _on_devices(federation, stored, rows), 1)


def _moved(federation: Federation, devices: list[jax.Device], lanes: int = 0) -> Federation:
    """The same federation on other devices."""
    placement = federation.placement
    split = placement.data_parallel
    mesh = jax.make_mesh(
        (len(devices) // split, split),
        (CLIENTS, DATA),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=devices,
    )
    moved = AbstractPlacement(mesh, lanes or placement.lanes)
    return replace(federation, placement=moved)


def _on_devices(federation: Federation, stored: dict[str, np.ndarray], rows: int) -> Tree:
    """Images on the devices, ``rows`` on each."""
    sharding = federation.placement.replicated
    if federation.examples_sharded:
        sharding = federation.placement.sharded
        rows *= federation.placement.num_devices
    return {k: _shape((rows, *v.shape[1:]), v.dtype, sharding) for k, v in stored.items()}


def _round(federation: Federation, params: Params, examples: Tree, copies: int) -> AbstractRound:
    state = federation.state_shapes(params)
    return AbstractRound(federation, state, examples, copies, federation.plan(0))
