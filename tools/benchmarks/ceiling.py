"""What the devices reach at most: chains of matrix products, on all of them at once."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from tools.benchmarks.measure import timed
from ufm_jax.config.model import ModelConfig
from ufm_jax.fed.placement import CLIENTS, Placement
from ufm_jax.models.sizes import SIZES

SIDES = (1024, 2048, 4096, 8192)
"""Of square matrices, in the order in which they are tried."""

_PAIRS = 4
_TRIES = 3
_LONG = 0.05
"""Seconds of a chain above which larger squares are not tried: they would be no faster."""


class Shape(NamedTuple):
    """A pair of products, [rows, inner] x [inner, outer] x [outer, inner]."""

    rows: int
    inner: int
    outer: int

    def __str__(self) -> str:
        return f"[{self.rows}, {self.inner}] x [{self.inner}, {self.outer}]"


def model_shapes(model: ModelConfig, batch_size: int) -> list[Shape]:
    """The products of the blocks' MLPs in encoder and decoder, which are most of the model's."""
    encoder, decoder = SIZES[model.size].width, model.decoder_width
    return [
        Shape(batch_size * (1 + model.num_kept), encoder, 4 * encoder),
        Shape(batch_size * (1 + model.num_patches), decoder, 4 * decoder),
    ]


class Ceiling:
    """The fastest of several chains of products, with as many operations on every device.

    Attributes:
        shape: Of the fastest chain's products.
        flops: Operations of a run of it, of all devices together.
        best: Operations a second of the fastest run of any chain so far.
    """

    def __init__(self, placement: Placement, dtype: str, shapes: Iterable[Shape] = ()) -> None:
        """Measures squares, until a chain of them takes long, and the shapes given."""
        self._placement, self._dtype, self.best = placement, dtype, 0.0
        for side in SIDES:
            if self._try(Shape(side, side, side)) > _LONG:
                break
        for shape in shapes:
            self._try(shape)

    def _try(self, shape: Shape) -> float:
        """Seconds of a chain of products; keeps it where it is the fastest so far."""
        work = _chain(self._placement, shape, self._dtype)
        work()
        seconds = min(timed(work)() for _ in range(_TRIES))
        flops = 4 * math.prod(shape) * _PAIRS * self._placement.mesh.size
        if flops / seconds > self.best:
            self.shape, self.flops, self._work, self.best = shape, flops, work, flops / seconds
        return seconds

    def run(self) -> float:
        """Seconds of one run of the fastest chain."""
        seconds = timed(self._work)()
        self.best = max(self.best, self.flops / seconds)
        return seconds


def utilisation(speed: float, ceiling: Ceiling) -> float:
    """The share of the ceiling that a speed in operations a second is.

    Raises:
        RuntimeError: If it is above 1, which no program can reach.
    """
    share = speed / ceiling.best
    if share > 1:
        raise RuntimeError(
            f"a round ran at {speed / 1e9:.1f} GFLOP/s, above the ceiling of "
            f"{ceiling.best / 1e9:.1f} that products {ceiling.shape} reached next to it: the "
            "machine was busy while it was measured; measure again when it is quiet"
        )
    return share


def _chain(placement: Placement, shape: Shape, dtype: str) -> Callable[[], None]:
    """A function that multiplies, and returns when it is done."""
    mesh = placement.mesh
    spec = PartitionSpec((CLIENTS, *(name for name in mesh.axis_names if name != CLIENTS)))

    @jax.jit
    @partial(
        jax.shard_map, mesh=mesh, in_specs=(spec, PartitionSpec(), PartitionSpec()), out_specs=spec
    )
    def multiply(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
        for _ in range(_PAIRS):
            x = (x @ up) @ down
        return x

    # The scale keeps the products' scale; random entries, since constant ones take less power.
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = ((mesh.size * shape.rows, shape.inner), shape[1:], shape[:0:-1])
    x, up, down = (
        jax.random.normal(key, size, dtype) / jnp.asarray(math.sqrt(size[0]), dtype)
        for key, size in zip(keys, sizes, strict=True)
    )
    x = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
    up, down = jax.device_put((up, down), placement.replicated)

    def work() -> None:
        jax.block_until_ready(multiply(x, up, down))

    return work
