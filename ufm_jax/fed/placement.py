"""Where clients train: a mesh of devices, and L lanes on each."""

from dataclasses import dataclass

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ufm_jax.fed.algorithm import Tree

CLIENTS = "clients"
"""The mesh axis over which lanes are spread."""

DATA = "data"
"""The mesh axis over which the batches of one lane are split."""

MANY_LANES = 8
"""With so many lanes, the models are taken to be too small to fill a device one by one."""

_FOR_LARGE_ON_GPUS = {
    # cuBLAS adds biases and residuals inside its products; XLA's Triton kernels cannot.
    "xla_gpu_enable_triton_gemm": False,
    # Products of the same inputs stay apart: parts of a joint product would have to be copied.
    "xla_gpu_dot_merger_threshold_mb": 0,
}


@dataclass(frozen=True)
class Placement:
    """Devices and lanes.

    Attributes:
        mesh: D x M devices along the axes ``clients`` and ``data``. Each lane belongs to a group of
            M devices, which split its batches; elsewhere "a device" means such a group.
        lanes: L, the clients that train side by side in each group.
    """

    mesh: Mesh
    lanes: int

    @property
    def num_devices(self) -> int:
        """D."""
        return self.mesh.shape[CLIENTS]

    @property
    def data_parallel(self) -> int:
        """M."""
        return self.mesh.shape[DATA]

    @property
    def compiler_options(self) -> dict[str, bool | int] | None:
        """XLA's options for compiling a round for these devices; None for its defaults."""
        on_gpu = self.mesh.devices.flat[0].platform in ("gpu", "cuda")
        return _FOR_LARGE_ON_GPUS if on_gpu and self.lanes < MANY_LANES else None

    @property
    def replicated(self) -> NamedSharding:
        """Sharding of arrays that every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def sharded(self) -> NamedSharding:
        """Sharding of arrays whose leading axis is cut into one part for each group."""
        return NamedSharding(self.mesh, PartitionSpec(CLIENTS))

    @property
    def batches(self) -> NamedSharding:
        """Sharding of rows [D, T, L, B]: each device gets its share of each batch."""
        if self.data_parallel == 1:  # XLA would not leave out the all-reduces over one device.
            return self.sharded
        return NamedSharding(self.mesh, PartitionSpec(CLIENTS, None, None, DATA))

    def put(self, tree: Tree, shardings: Tree) -> Tree:
        """Puts host arrays on the devices.

        Every process passes the same arrays, and sends only its part of them.

        Args:
            tree: Arrays that this process can read.
            shardings: One of this placement's shardings, or a tree with one for each part.
        """

        def place(sharding: NamedSharding, part: Tree) -> Tree:
            def place_array(leaf: npt.ArrayLike) -> jax.Array:
                array = np.asarray(leaf)
                return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])

            return jax.tree.map(place_array, part)

        if self.replicated.is_fully_addressable:
            return jax.device_put(tree, shardings)
        return jax.tree.map(place, shardings, tree)


def make_placement(
    num_devices: int | None = None,
    lanes: int = 1,
    *,
    data_parallel: int = 1,
) -> Placement:
    """Builds a placement.

    Args:
        num_devices: How many of the devices are used, from the first on; None for all.
        lanes: L.
        data_parallel: M, devices that split the batches of each lane. This speeds up large clients
            and costs an all-reduce of the gradient at each step.

    Raises:
        ValueError: If there are fewer devices, less than one lane, or M does not divide them.
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
    if data_parallel < 1 or count % data_parallel:
        raise ValueError(
            f"placement.data_parallel={data_parallel}: it does not divide {count} devices"
        )
    mesh = jax.make_mesh(
        (count // data_parallel, data_parallel),
        (CLIENTS, DATA),
        axis_types=(AxisType.Auto,) * 2,
        devices=available[:count],
    )
    return Placement(mesh, lanes)
