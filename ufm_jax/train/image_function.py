"""A function of parameters and images, applied to many images on all devices."""

import math
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ufm_jax.data.federated import FederatedData
from ufm_jax.fed.algorithm import Params, Tree
from ufm_jax.fed.placement import Placement

_FIELDS = ("image", "extent")


class ImageFunction:
    """What a function gives for each image of some data, by one program on all devices.

    Where images live in device memory these do too, cut over the devices.
    """

    def __init__(
        self,
        function: Callable[[Params, Tree], jax.Array],
        data: FederatedData,
        placement: Placement,
        batch_size: int,
        resident: bool,
    ) -> None:
        """Compiles nothing yet.

        Args:
            function: ``(params, batch) -> [B, ...]`` of 'image' and 'extent'.
            data: The images, R in all.
            placement: The devices.
            batch_size: Images at once; it is made a multiple of the devices.
            resident: Whether batches stay on the devices once they are there.
        """
        mesh = placement.mesh
        self._data, self._placement, self._resident = data, placement, resident
        self._size = math.ceil(batch_size / mesh.size) * mesh.size
        self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._function = jax.jit(function, out_shardings=placement.replicated)
        self._held: dict[int, Tree] = {}

    @property
    def compilations(self) -> int:
        """How often the program was compiled so far."""
        return self._function._cache_size()  # type: ignore[attr-defined]

    def __call__(self, params: Params, begin: int = 0, end: int | None = None) -> np.ndarray:
        """What it gives for rows ``begin`` to ``end``: [end - begin, ...]."""
        end = self._data.num_rows if end is None else end
        # All batches are on their way before the first result is waited for.
        found = [self._function(params, batch) for batch in self._batches(begin, end)]
        return np.concatenate(jax.device_get(found))[: end - begin]

    def _batches(self, begin: int, end: int) -> Iterator[Tree]:
        for first in range(begin, end, self._size):
            batch = self._held.get(first)
            if batch is None:
                # Always full, so that one shape serves all; what lies beyond ``end`` is not read.
                places = np.minimum(np.arange(first, first + self._size), self._data.num_rows - 1)
                rows = self._data.store.read(places)
                batch = self._placement.put({name: rows[name] for name in _FIELDS}, self._split)
            if self._resident:
                self._held[first] = batch
            yield batch
