"""Which number of lanes to take, as a pure function of what was measured.

Candidates are 1, 2, 4, ... lanes a device. More lanes keep an accelerator busier, and need more
memory; and where a few clients are much larger than the rest, more lanes idle at the end of a
round. So the images a second that a candidate promises are those of full lanes, as measured, times
the share of its slots in which this run's clients train. The fewest lanes within 3 % of the best
are taken. The search goes up until memory ends, or twice the lanes are slower by more than 10 %.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

NEAR_BEST = 0.97
"""The fewest lanes with this share of the best throughput are taken."""
WORTH_GOING_ON = 0.9
"""Twice the lanes with less than this share of the throughput end the search."""


class Measurement(NamedTuple):
    """What a probe found.

    Attributes:
        lanes: L.
        working_bytes: Memory of a device beside images and clients' states; infinite where the
            device ran out of it.
        images_per_second: Of full lanes, over all devices; None where memory did not suffice.
    """

    lanes: int
    working_bytes: float
    images_per_second: float | None


class Load(NamedTuple):
    """What this run's data mean for a number of lanes.

    Attributes:
        image_bytes: Images on a device.
        client_bytes: Clients' states on a device.
        useful: Share of the slots of the first round in which a client trains.
    """

    image_bytes: int
    client_bytes: int
    useful: float


@dataclass(frozen=True)
class Search:
    """The rules of the choice, as pure functions of the measurements.

    Attributes:
        candidates: Numbers of lanes, ascending.
        load: What the run's data mean for each of them.
        limit: Bytes of a device that may be used.
    """

    candidates: Sequence[int]
    load: Callable[[int], Load]
    limit: float

    def needed(self, measurement: Measurement) -> float:
        """Bytes of a device that the run would take."""
        load = self.load(measurement.lanes)
        return measurement.working_bytes + load.image_bytes + load.client_bytes

    def fits(self, measurement: Measurement) -> bool:
        """Whether the run would fit a device."""
        return self.needed(measurement) <= self.limit

    def throughput(self, measurement: Measurement) -> float:
        """Images a second that the run can expect; 0 where it does not fit or was not timed."""
        if measurement.images_per_second is None or not self.fits(measurement):
            return 0.0
        return measurement.images_per_second * self.load(measurement.lanes).useful

    def missing(self, table: Mapping[int, Measurement]) -> int | None:
        """The next number of lanes to measure; None where the table decides."""
        before = 0.0
        for lanes in self.candidates:
            if lanes not in table:
                return lanes
            measurement = table[lanes]
            if not self.fits(measurement):
                return None
            if measurement.images_per_second is None:
                return lanes
            now = self.throughput(measurement)
            if now < WORTH_GOING_ON * before:
                return None
            before = now
        return None

    def best(self, table: Mapping[int, Measurement]) -> int | None:
        """The fewest lanes whose throughput is within 3 % of the best; None if nothing fits."""
        found = {n: self.throughput(table[n]) for n in self.candidates if n in table}
        most = max(found.values(), default=0.0)
        if not most > 0:
            return None
        return min(n for n, value in found.items() if value >= NEAR_BEST * most)
