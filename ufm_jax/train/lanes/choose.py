"""Chooses the number of lanes by measurement: throughput under a memory limit, kept for next time.

``search`` has the rules of the choice, ``probe`` measures. Measurements are kept in the user's
cache folder, a file for each model, batch and machine. What depends on the data (images and
clients' states in memory, slots in use) is not kept, but computed.
"""

import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ufm_jax.cluster.hosts import from_first, is_first
from ufm_jax.cluster.process import num_cores
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.config.training import OptimizerConfig, PlacementConfig
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import Params, Tree, tree_bytes
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import Placement
from ufm_jax.files import cache_folder, private_folder, write_json
from ufm_jax.train.federation import in_chunks
from ufm_jax.train.feed import images_at_once
from ufm_jax.train.lanes.probe import OutOfDeviceMemoryError, RoundProbe, device_memory
from ufm_jax.train.lanes.search import Load, Measurement, Search

_log = logging.getLogger(__name__)

_REPEATS = 3


def choose_lanes(
    config: PretrainConfig,
    federation: Federation,
    params: Params,
    example: Tree,
    probe: RoundProbe | None = None,
) -> int:
    """Chooses the lanes of each device for a run, by measurement or from the cache.

    Args:
        config: The run's configuration.
        federation: The run's federation, with any number of lanes.
        params: Global parameters.
        example: One of the run's images, leaves [1, ...].
        probe: What measures; default ``RoundProbe``.

    Raises:
        ConfigError: If not even one lane fits the memory; it names the parts and remedies.
    """
    search = Search(
        candidates(federation),
        cache(lambda lanes: _load(config.placement, federation, params, example, lanes)),
        config.placement.memory_fraction * device_memory(federation.placement),
    )
    key = cache_key(config, federation.placement, example)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_folder() / "lanes" / f"{digest}.json"
    table = _read(path, key)
    # The first process decides for all: their timings and their caches differ.
    known = bool(from_first(int(search.missing(table) is None)))
    if not known:
        table = _measure(search, probe or RoundProbe(federation, params, example))
        _keep(path, key, table)
    best = search.best(table)
    source = f"from {path}" if known else f"measured, kept in {path}"
    _log.info("%s; %s", _table_line(search, table, best), source)
    lanes = from_first(best or 0)
    if not lanes:
        one = table.get(1, Measurement(1, math.inf, None))
        raise ConfigError(_too_little(search, one, config))
    return lanes


def candidates(federation: Federation) -> list[int]:
    """Powers of two up to the clients that a device trains in a round, spread evenly."""
    cohort = federation.cohort_size or federation.num_clients
    most = -(-cohort // federation.placement.num_devices)
    return [2**i for i in range(most.bit_length())]


def cache_key(config: PretrainConfig, placement: Placement, example: Tree) -> dict[str, Any]:
    """All that the speed and the working memory of a number of lanes depend on."""

    def kind(optimizer: OptimizerConfig) -> list[Any]:
        # Its rates are left out: they change neither arithmetic nor memory.
        chain = (optimizer.clip_norm, optimizer.weight_decay, optimizer.betas[0])
        return [optimizer.name, *(value > 0 for value in chain)]

    fed = config.federation
    key = {
        "model": asdict(config.model),
        "augment": asdict(config.augment),
        "batch_size": fed.batch_size,
        "client_state": fed.client_state,
        "method": [
            asdict(section)
            for section in (fed.algorithm, fed.aggregation, fed.compression, fed.privacy)
        ],
        "optimizers": [kind(config.client_optimizer), kind(config.server_optimizer)],
        "example": {name: [str(x.dtype), *x.shape[1:]] for name, x in example.items()},
        "images_in_parts": config.placement.data_home != "device",
        "device": placement.mesh.devices.flat[0].device_kind,
        "devices": [placement.num_devices, placement.data_parallel],
        "processes": jax.process_count(),
        "machine": [platform.machine(), num_cores()],
        "versions": [version(name) for name in ("ufm-jax", "jax", "jaxlib")],
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }
    return json.loads(json.dumps(key))


def _load(
    placement: PlacementConfig, federation: Federation, params: Params, example: Tree, lanes: int
) -> Load:
    """What the run would keep on a device with ``lanes`` lanes, and how well it would fill them."""
    federation = replace(federation, placement=replace(federation.placement, lanes=lanes))
    image_bytes = tree_bytes(example)
    memory = device_memory(federation.placement)
    federation = in_chunks(federation, placement, image_bytes, memory)
    # Beside the images of a chunk there are those of the next, which arrive while it trains.
    chunks = 1 if placement.data_home == "device" else 2
    clients = tree_bytes(federation.state_shapes(params).clients)
    return Load(
        chunks * images_at_once(federation, placement.data_home) * image_bytes,
        clients // federation.placement.num_devices,
        federation.plan(0).schedule.useful_fraction,
    )


def _measure(search: Search, probe: RoundProbe) -> dict[int, Measurement]:
    """Measures candidates until the rules end the search, and all again, in turn.

    The search goes on where the medians say that one slow moment had ended it.
    """
    table: dict[int, Measurement] = {}
    samples: dict[int, list[float]] = {}
    while (lanes := search.missing(table)) is not None:
        while lanes is not None:
            table[lanes] = _measure_once(search, probe, lanes)
            if (speed := table[lanes].images_per_second) is not None:
                samples[lanes] = [speed]
            lanes = search.missing(table)
        for _ in range(_REPEATS - 1 if len(samples) > 1 else 0):
            for lanes, values in samples.items():
                values.append(probe.images_per_second(lanes))
        for lanes, values in samples.items():
            table[lanes] = table[lanes]._replace(images_per_second=float(np.median(values)))
    return table


def _measure_once(search: Search, probe: RoundProbe, lanes: int) -> Measurement:
    _log.info("placement.lanes=0: compiling and timing %d lanes a device", lanes)
    try:
        measurement = Measurement(lanes, probe.working_bytes(lanes), None)
        if not search.fits(measurement):
            return measurement
        return measurement._replace(images_per_second=probe.images_per_second(lanes))
    except OutOfDeviceMemoryError as error:
        if jax.process_count() > 1:
            raise  # The others may be waiting inside the round that ended here.
        _log.warning("placement.lanes=0: %d lanes do not fit: %s", lanes, error)
        return Measurement(lanes, math.inf, None)


def _read(path: Path, key: Mapping[str, Any]) -> dict[int, Measurement]:
    """The measurements kept for a key; none where there is no file, or one that is no use."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] != key:
            raise ValueError("it belongs to another key")
        rows = [Measurement(int(n), float(b), v and float(v)) for n, b, v in kept["measurements"]]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s is damaged (%s): lanes are measured again", path, error)
        return {}
    return {row.lanes: row for row in rows}


def _keep(path: Path, key: Mapping[str, Any], table: Mapping[int, Measurement]) -> None:
    """Writes the measurements, but those that memory ended: another program may have held it."""
    if not is_first():
        return
    rows = [list(m) for m in table.values() if math.isfinite(m.working_bytes)]
    try:
        private_folder(path.parent)
        write_json(path, {"key": key, "measurements": rows})
    except OSError as error:
        _log.warning("the measured lanes cannot be kept: %s", error)


def _table_line(search: Search, table: Mapping[int, Measurement], lanes: int | None) -> str:
    parts = []
    for m in table.values():
        speed = "does not fit"
        if m.images_per_second is not None:
            useful = search.load(m.lanes).useful
            speed = f"{m.images_per_second:,.0f} images/s with {useful:.0%} of the slots in use"
        parts.append(f"{m.lanes}: {speed}, {_size(search.needed(m))}")
    return f"lanes a device: {lanes} of ({'; '.join(parts)}), limit {_size(search.limit)}"


def _too_little(search: Search, one: Measurement, config: PretrainConfig) -> str:
    load = search.load(one.lanes)
    remedies = ["lower config.federation.batch_size"]
    if not config.model.remat:
        remedies.append("set config.model.remat=True")
    if config.placement.data_home == "device":
        remedies.append("set config.placement.data_home='host'")
    if load.client_bytes:
        remedies.append("use more devices, or config.federation.client_state='reset' or 'average'")
    remedies.append("take a smaller model")
    return (
        f"config.placement.lanes=0: not even one lane fits: a device needs "
        f"{_size(search.needed(one))} ({_size(load.image_bytes)} of images, "
        f"{_size(load.client_bytes)} of clients' states, {_size(one.working_bytes)} to train) and "
        f"may use {_size(search.limit)} (config.placement.memory_fraction="
        f"{config.placement.memory_fraction}); {'; '.join(remedies)}"
    )


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if math.isfinite(count) else "more than there is"
