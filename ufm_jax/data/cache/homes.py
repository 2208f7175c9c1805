"""Homes of the images outside the devices: host memory, or disk.

Either returns the images of the rows in a round's plan and no others, gathered in the background
while the round before trains. The same rows give the same pixels in both.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ufm_jax.data.cache.store import RowStore

Fields = dict[str, np.ndarray]

_READ_AT_ONCE = 256


class RoundRows(NamedTuple):
    """The images of a round.

    Attributes:
        examples: Fields [num_shards * capacity, ...]; shard d's images begin at d * capacity.
        local_rows: int32, the plan's rows as numbers inside the shard; -1 stays -1.
    """

    examples: Fields
    local_rows: np.ndarray


class Home:
    """Gathers each round's images while the round before trains."""

    def __init__(
        self, read: Callable[[np.ndarray], Fields], capacity: int, num_shards: int
    ) -> None:
        """Starts the background thread.

        Args:
            read: Gathers rows [R] of the store.
            capacity: Images that a shard may need in a round.
            num_shards: Devices, each of which gets only its own images.
        """
        self._read, self._capacity, self._num_shards = read, capacity, num_shards
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="home")
        self._next: tuple[np.ndarray, Future[RoundRows]] | None = None

    def prefetch(self, rows: np.ndarray) -> None:
        """Starts gathering a round in the background.

        Args:
            rows: int [num_shards, ...], row numbers of the store, -1 where a slot is empty.
        """
        self._next = rows, self._worker.submit(self._gather, rows)

    def round(self, rows: np.ndarray) -> RoundRows:
        """The images of a round; quick if they were prefetched.

        Raises:
            ValueError: If a shard needs more images than there is room for. Any other error in the
                background is raised here too.
        """
        if self._next is None or not np.array_equal(self._next[0], rows):
            self.prefetch(rows)
        assert self._next is not None
        gathered = self._next[1].result()
        self._next = None
        return gathered

    def close(self) -> None:
        """Ends the background work."""
        self._worker.shutdown(cancel_futures=True)

    def _gather(self, rows: np.ndarray) -> RoundRows:
        if len(rows) != self._num_shards:
            raise ValueError(f"rows {rows.shape}: the leading axis has {self._num_shards} shards")
        local = np.full(rows.shape, -1, np.int32)
        examples: Fields = {}
        for shard, wanted in enumerate(rows):
            used = wanted >= 0
            needed, places = np.unique(wanted[used], return_inverse=True)
            if len(needed) > self._capacity:
                raise ValueError(
                    f"a device needs {len(needed)} images in a round, and has room for "
                    f"{self._capacity}: lower local_steps or cohort_size, or use more devices"
                )
            local[shard][used] = places
            for name, values in self._read(needed).items():
                if name not in examples:
                    shape = (self._num_shards * self._capacity, *values.shape[1:])
                    # Zeroed pages cost nothing until they are touched.
                    examples[name] = np.zeros(shape, values.dtype)
                begin = shard * self._capacity
                examples[name][begin : begin + len(needed)] = values
        return RoundRows(examples, local)


class _Reads:
    """Reads of up to a few hundred rows each, as a source that grain can index."""

    def __init__(self, store: RowStore, rows: np.ndarray) -> None:
        self._store, self._rows = store, rows

    def __len__(self) -> int:
        return (len(self._rows) + _READ_AT_ONCE - 1) // _READ_AT_ONCE

    def __getitem__(self, index: int) -> Fields:
        begin = int(index) * _READ_AT_ONCE
        return self._store.read(self._rows[begin : begin + _READ_AT_ONCE])


def make_home(
    kind: str,
    store: RowStore,
    *,
    capacity: int,
    num_shards: int = 1,
    num_threads: int = 2,
    rows: np.ndarray | None = None,
) -> Home:
    """Opens a home outside the devices.

    Args:
        kind: 'host' reads the rows into memory once; 'stream' reads them from the store when a
            round needs them.
        store: The images.
        capacity: Images that a device may need in a round.
        num_shards: Devices.
        num_threads: Threads with which 'stream' reads.
        rows: Rows that will ever be asked for, which 'host' keeps; None for all.

    Raises:
        ValueError: If ``kind`` is neither.
    """
    if kind == "host":
        return Home(_in_memory(store, rows), capacity, num_shards)
    if kind == "stream":
        return Home(lambda rows: _stream(store, rows, num_threads), capacity, num_shards)
    raise ValueError(f"a home of kind {kind!r}: choose 'host' or 'stream'")


def _in_memory(store: RowStore, rows: np.ndarray | None) -> Callable[[np.ndarray], Fields]:
    """Reads rows (None: all) once, and returns a function that gathers any of them."""
    if rows is None:
        rows = np.arange(len(store))
    kept = store.read(rows)
    place = np.full(len(store), -1, np.int64)
    place[rows] = np.arange(len(rows))

    def read(wanted: np.ndarray) -> Fields:
        places = place[wanted]
        if (places < 0).any():
            raise ValueError(
                f"row {wanted[places < 0][0]} is not one of the {len(rows)} kept in memory"
            )
        return {name: values[places] for name, values in kept.items()}

    return read


def _stream(store: RowStore, rows: np.ndarray, num_threads: int) -> Fields:
    """Reads rows through grain, several reads at once, in order."""
    import grain  # slow to import, and only this home needs it

    if not len(rows):
        return store.read(rows)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    dataset = grain.MapDataset.source(_Reads(store, rows)).to_iter_dataset(options)
    parts: Iterator[Fields] = iter(dataset)
    read = list(parts)
    return {name: np.concatenate([part[name] for part in read]) for name in read[0]}
