"""The timeline of a federation without rounds: which client starts and arrives when (host).

C clients are in flight at any time, one in each slot. When one arrives, the server takes its update
and starts another client, with the parameters of that moment, in its slot. The whole timeline
follows from the clients' speeds and the seed, before anything is trained.

The timeline is cut into waves, each of which is one dispatch. A wave trains the jobs that have
started and are not trained yet, side by side. Then it takes arrivals in order until a job arrives
that is not trained. Cutting decides what is computed together, and changes no result.
"""

import heapq
from dataclasses import dataclass

from ufm_jax.fed.keys import host_rng
from ufm_jax.fed.participation import Clock
from ufm_jax.fed.schedule import IntArray


@dataclass(frozen=True)
class Job:
    """A client in a slot."""

    slot: int
    client: int


@dataclass(frozen=True)
class Arrival:
    """A job that ends.

    Attributes:
        job: The job.
        time: Virtual seconds since the beginning.
        staleness: Server updates since the job started.
        lost: Whether its update was lost, since it dropped out or missed the deadline.
        flush: Whether the server updates its parameters now.
    """

    job: Job
    time: float
    staleness: int
    lost: bool
    flush: bool


@dataclass(frozen=True)
class Wave:
    """One dispatch: jobs to train, then arrivals in order.

    Attributes:
        jobs: The jobs, which are trained side by side.
        arrivals: Arrivals of this wave's or earlier jobs.
        begin, end: Virtual seconds between which its arrivals lie.
        version: Server updates until its end.
    """

    jobs: tuple[Job, ...]
    arrivals: tuple[Arrival, ...]
    begin: float
    end: float
    version: int


class Timeline:
    """The waves of a federation, computed as they are asked for."""

    def __init__(
        self, clock: Clock, num_steps: IntArray, concurrency: int, buffer: int, seed: int
    ) -> None:
        """Starts a client in every slot.

        Args:
            clock: How long clients take.
            num_steps: [K] local steps of each client.
            concurrency: C, clients in flight.
            buffer: Arrivals for each update of the server.
            seed: The run's seed.
        """
        self._clock, self._num_steps, self._buffer, self._seed = clock, num_steps, buffer, seed
        self._waves: list[Wave] = []
        self._queue: list[tuple[float, int, Job, int, bool]] = []
        self._in_flight: set[int] = set()
        self._started = self._version = self._waiting = 0
        self._time = 0.0
        self._untrained: dict[int, Job] = {}
        for slot in range(concurrency):
            self._start(slot)

    def wave(self, index: int) -> Wave:
        """The wave of this number."""
        while len(self._waves) <= index:
            self._waves.append(self._next())
        return self._waves[index]

    def _next(self) -> Wave:
        jobs, begin = tuple(self._untrained.values()), self._time
        self._untrained = {}
        arrivals = []
        while self._queue[0][2].slot not in self._untrained:
            arrivals.append(self._arrive())
        return Wave(jobs, tuple(arrivals), begin, self._time, self._version)

    def _arrive(self) -> Arrival:
        self._time, _, job, version, lost = heapq.heappop(self._queue)
        self._in_flight.remove(job.client)
        staleness = self._version - version
        self._waiting += not lost
        flush = self._waiting == self._buffer
        if flush:
            self._version, self._waiting = self._version + 1, 0
        self._start(job.slot)
        return Arrival(job, self._time, staleness, lost, flush)

    def _start(self, slot: int) -> None:
        """Puts a client that is not in flight into a slot."""
        rng = host_rng(self._seed, "job", self._started)
        free = [k for k in range(len(self._num_steps)) if k not in self._in_flight]
        client = int(rng.choice(free))
        seconds, lost = self._clock.seconds(client, int(self._num_steps[client]), rng)
        job = Job(slot, client)
        self._in_flight.add(client)
        self._untrained[slot] = job
        # Jobs that end at the same time arrive in the order of their numbers.
        entry = (self._time + seconds, self._started, job, self._version, lost)
        heapq.heappush(self._queue, entry)
        self._started += 1
