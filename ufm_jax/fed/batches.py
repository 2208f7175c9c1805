"""Which examples a client sees at which local step (host, numpy).

A client's order is a pure function of (seed, round, client, epoch): it needs no state, so a resumed
run continues it exactly, and it is computed for the whole cohort at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ufm_jax.fed.keys import host_rng, name_to_int
from ufm_jax.fed.participation import poisson_bound
from ufm_jax.fed.schedule import IntArray, Schedule

EMPTY = -1
"""Row number of a slot without an example, in an idle lane or a partial batch."""

PartialBatch = Literal["weight", "drop"]
BatchSampling = Literal["shuffle", "poisson"]


@dataclass(frozen=True)
class Batching:
    """How local work is cut into steps.

    Attributes:
        batch_size: B.
        local_epochs: Passes over a client's data in a round, or the share of one, for which images
            are drawn anew in each round; None where ``local_steps`` is set.
        local_steps: Steps in a round, the same for every client; None where epochs are counted.
        partial_batch: ``weight`` keeps an epoch's last, smaller batch, whose loss is the mean over
            its examples; ``drop`` leaves it out.
        sampling: ``shuffle`` passes over the data in a new order each epoch. ``poisson``, which
            privacy accounting wants, draws each example for each step independently, so that a
            batch has ``batch_size`` examples on average and may be empty; an epoch has as many
            steps as with ``shuffle``.
        multiple: A batch has room for a multiple of so many examples.
    """

    batch_size: int
    local_epochs: float | None = 1
    local_steps: int | None = None
    partial_batch: PartialBatch = "weight"
    sampling: BatchSampling = "shuffle"
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: it must be at least 1")
        if (self.local_epochs is None) == (self.local_steps is None):
            raise ValueError("set one of local_epochs and local_steps, and leave the other None")
        if not (self.local_epochs or self.local_steps or 0) > 0:
            raise ValueError("local_epochs and local_steps must be above 0")
        if self.partial_batch not in ("weight", "drop"):
            raise ValueError(f"partial_batch={self.partial_batch!r}: choose 'weight' or 'drop'")
        if self.sampling not in ("shuffle", "poisson"):
            raise ValueError(f"sampling={self.sampling!r}: choose 'shuffle' or 'poisson'")

    @property
    def capacity(self) -> int:
        """Examples for which a batch has room."""
        if self.sampling == "shuffle":
            return self.batch_size
        return -(-poisson_bound(self.batch_size) // self.multiple) * self.multiple

    def steps_per_epoch(self, num_examples: npt.ArrayLike) -> IntArray:
        """Batches in one pass over ``num_examples`` [...] examples."""
        count = np.asarray(num_examples, np.int64)
        if self.partial_batch == "drop":
            return count // self.batch_size
        return -(-count // self.batch_size)

    def num_steps(self, num_examples: npt.ArrayLike) -> IntArray:
        """T_k for clients of ``num_examples`` [...]; zero for a client without a (full) batch."""
        per_epoch = self.steps_per_epoch(num_examples)
        if self.local_steps is not None:
            return np.where(per_epoch > 0, self.local_steps, 0)
        assert self.local_epochs is not None
        return np.maximum(np.round(per_epoch * self.local_epochs), per_epoch > 0).astype(np.int64)


def round_rows(
    schedule: Schedule,
    offsets: npt.ArrayLike,
    batching: Batching,
    *,
    seed: Sequence[int],
    round_index: int,
    max_steps: int,
) -> npt.NDArray[np.int32]:
    """The row of the example in every slot of a round.

    Args:
        schedule: The packed cohort.
        offsets: [K + 1] client k owns the rows ``offsets[k] .. offsets[k + 1]``.
        batching: How local work is cut into steps.
        seed: The words from which the order is drawn: the run's seed, or secret words.
        round_index: The round.
        max_steps: T, the steps of the longest lane that any round may need.

    Returns:
        [D, T, L, B] rows; ``EMPTY`` where a lane idles or a batch is partial.
    """
    offsets = np.asarray(offsets, np.int64)
    size = np.diff(offsets)[schedule.client]
    draw = _shuffled if batching.sampling == "shuffle" else _poisson
    c, step, column, example = draw(schedule, size, batching, seed, round_index)
    shape = (schedule.num_devices, max_steps, schedule.lanes, batching.capacity)
    rows = np.full(shape, EMPTY, np.int32)
    device, lane = np.divmod(schedule.lane[c], schedule.lanes)
    rows[device, schedule.first_step[c] + step, lane, column] = (
        offsets[schedule.client[c]] + example
    )
    return rows


Slots = tuple[IntArray, IntArray, IntArray, IntArray]
"""For every used slot: the client's place in the schedule, its step, the column, the example."""


def _shuffled(
    schedule: Schedule, size: IntArray, batching: Batching, seed: Sequence[int], round_index: int
) -> Slots:
    per_epoch = batching.steps_per_epoch(size)
    num_epochs = -(-schedule.num_steps // per_epoch)

    # One entry for every (client, epoch), then one for every (client, epoch, example).
    of_client = np.repeat(np.arange(len(size)), num_epochs)
    epoch = _ranges(num_epochs)
    of_epoch = np.repeat(np.arange(len(of_client)), size[of_client])
    example = _ranges(size[of_client])
    order = _shuffle(of_epoch, example, schedule.client[of_client], epoch, seed, round_index)

    position, c = example, of_client[of_epoch]
    step = epoch[of_epoch] * per_epoch[c] + position // batching.batch_size
    # A dropped partial batch, or what lies beyond the last of a fixed number of steps.
    used = (position // batching.batch_size < per_epoch[c]) & (step < schedule.num_steps[c])
    return c[used], step[used], position[used] % batching.batch_size, example[order][used]


def _poisson(
    schedule: Schedule, size: IntArray, batching: Batching, seed: Sequence[int], round_index: int
) -> Slots:
    parts: list[Slots] = []
    for c, client in enumerate(schedule.client.tolist()):
        rng = host_rng(seed[0], *seed[1:], "batches", round_index, client)
        rate = min(1.0, batching.batch_size / size[c])
        # First how many, then which: distributed as if each example were drawn independently.
        counts = rng.binomial(size[c], rate, schedule.num_steps[c]).clip(max=batching.capacity)
        chosen = [rng.choice(size[c], n, replace=False, shuffle=False) for n in counts]
        step = np.repeat(np.arange(len(counts)), counts)
        example = np.concatenate([np.zeros(0, np.int64), *chosen])
        parts.append((np.full(len(step), c), step, _ranges(counts), example))
    if not parts:
        return (np.zeros(0, np.int64),) * 4
    places, step, column, example = map(np.concatenate, zip(*parts, strict=True))
    return places, step, column, example


def _ranges(lengths: IntArray) -> IntArray:
    """0 .. n - 1 for each n of ``lengths``, concatenated."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def _shuffle(
    of_epoch: IntArray,
    example: IntArray,
    client: IntArray,
    epoch: IntArray,
    seed: Sequence[int],
    round_index: int,
) -> IntArray:
    """Orders the examples inside every (client, epoch) by a hash of their identity.

    Sorting all of them at once takes one pass. A generator for each client would take a Python loop
    over the cohort.
    """
    hashed = np.full(client.shape, name_to_int("order"), np.uint64)
    for part in (*seed, round_index, client, epoch):
        hashed = _mix(hashed ^ np.asarray(part).astype(np.uint64))
    return np.lexsort((_mix(hashed[of_epoch] ^ example.astype(np.uint64)), of_epoch))


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64 bits."""
    with np.errstate(over="ignore"):
        z = x + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
