"""Where clients train: a one-axis mesh of devices, and L lanes on each."""

from dataclasses import dataclass

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ufm_jax.fed.algorithm import Tree

AXIS = "clients"
"""The mesh axis over which lanes are spread."""


@dataclass(frozen=True)
class Placement:
    """Devices and lanes.

    Attributes:
        mesh: D devices along the axis ``clients``.
        lanes: L, the clients that train side by side on each device.
    """

    mesh: Mesh
    lanes: int

    @property
    def num_devices(self) -> int:
        """D."""
        return self.mesh.devices.size

    @property
    def replicated(self) -> NamedSharding:
        """Sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def sharded(self) -> NamedSharding:
        """Sharding of arrays whose leading axis is cut into one part a device."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def put(self, tree: Tree, sharding: NamedSharding) -> Tree:
        """Puts host arrays on the devices; every process gives the same, and sends only its part.

        Args:
            tree: Arrays that this process can read.
            sharding: ``self.replicated`` or ``self.sharded``.
        """

        def place(leaf: npt.ArrayLike) -> jax.Array:
            array = np.asarray(leaf)
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

        return jax.tree.map(place, tree)


def make_placement(num_devices: int | None = None, lanes: int = 1) -> Placement:
    """Builds a placement on the first ``num_devices`` devices (None: all of them).

    Raises:
        ValueError: If there are fewer devices, or no lane.
    """
    available = jax.devices()
    count = len(available) if num_devices is None else num_devices
    if not 1 <= count <= len(available):
        raise ValueError(
            f"placement.devices={count}: this machine has {len(available)}; lower it, or simulate "
            "devices on a CPU with JAX_NUM_CPU_DEVICES"
        )
    if lanes < 1:
        raise ValueError(f"placement.lanes={lanes}: at least one lane a device is needed")
    mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=available[:count])
    return Placement(mesh, lanes)
