"""What the devices reach at most: products of square matrices, on all of them at once."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from tools.benchmarks.measure import timed
from ufm_jax.fed.placement import CLIENTS, Placement

SIDES = (1024, 2048, 4096, 8192)
"""Of the matrices, in the order in which they are tried."""

_CHAIN = 8
_LONG = 0.05
"""Seconds of a chain above which larger matrices are not tried: they would be no faster."""


class Ceiling:
    """A chain of products [n, n] x [n, n] on every device.

    Attributes:
        flops: Operations of a run, of all devices together.
        side: n.
    """

    def __init__(self, placement: Placement, dtype: str) -> None:
        """Chooses n by measurement: the largest that is tried, or the first with a long chain."""
        for side in SIDES:
            self.side = side
            self.flops = 2 * side**3 * _CHAIN * placement.mesh.size
            self._work = _chain(placement, side, dtype)
            self.run()
            if self.run() > _LONG:
                return

    def run(self) -> float:
        """Seconds of one run."""
        return timed(self._work)()


def _chain(placement: Placement, side: int, dtype: str) -> Callable[[], None]:
    """A function that multiplies, and returns when it is done."""
    mesh = placement.mesh
    spec = PartitionSpec((CLIENTS, *(name for name in mesh.axis_names if name != CLIENTS)))

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)
    def multiply(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, _CHAIN, lambda _, z: z @ y, x)

    x_key, y_key = jax.random.split(jax.random.key(0))
    # The scale keeps the products' scale; random entries, since constant ones take less power.
    x = jax.random.normal(x_key, (mesh.size * side, side), dtype)
    y = jax.random.normal(y_key, (side, side), dtype) / jnp.asarray(math.sqrt(side), dtype)
    x = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
    y = jax.device_put(y, placement.replicated)

    def work() -> None:
        jax.block_until_ready(multiply(x, y))

    return work
