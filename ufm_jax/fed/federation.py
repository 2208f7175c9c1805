"""A federation: clients with their examples, an algorithm, and a round to run.

Here the parts meet: sampling a cohort, packing it, ordering its examples, and the compiled round. A
federation needs a loss function and arrays, and neither a model nor a file:

    federation = Federation(loss_fn, fedavg(optax.sgd(0.1)), offsets, Batching(20))
    state = federation.init(params)
    examples = federation.replicate({"x": x, "y": y})
    for r in range(100):
        state, metrics = federation.run_round(state, examples, federation.plan(r))
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ufm_jax.fed.aggregate.aggregator import Aggregator
from ufm_jax.fed.aggregate.mean import mean
from ufm_jax.fed.algorithm import Algorithm, LossFn, Params, Tree, tree_bytes, update_shape
from ufm_jax.fed.batches import EMPTY, Batching, round_rows
from ufm_jax.fed.engine import (
    After,
    FederationState,
    RoundFn,
    RoundMetrics,
    make_round,
    no_training,
    plan_shardings,
    state_shardings,
)
from ufm_jax.fed.events import events, segments
from ufm_jax.fed.gradient import Gradient, mean_gradient
from ufm_jax.fed.keys import fold, host_rng
from ufm_jax.fed.lanes import Plan
from ufm_jax.fed.participation import Clock, Participation
from ufm_jax.fed.placement import Placement, make_placement
from ufm_jax.fed.plan import ClientResult, HostPlan, client_results
from ufm_jax.fed.schedule import IntArray, Limits, Schedule, limits, pack, pin, rank_within

ClientWeights = Literal["examples", "uniform"]


class Traffic(NamedTuple):
    """Bytes of one client in one round: from the server, and to it."""

    down: int
    up: int


@dataclass(frozen=True)
class Federation:
    """A population of clients under one algorithm.

    Attributes:
        loss_fn: ``(params, batch, keys) -> losses [B]``.
        algorithm: The federated algorithm.
        offsets: [K + 1] client k owns the rows ``offsets[k] .. offsets[k + 1]`` of the examples.
        batching: How local work is cut into steps.
        cohort_size: Clients that are asked in a round; None for all of them.
        participation: How the cohort is drawn.
        clock: How long clients take, and which are lost; None for no clock.
        client_weights: p_k are equal (``uniform``), or in proportion to the clients' ``examples``
            or to [K] given numbers.
        aggregator: How the clients' updates become one; by default their weighted mean.
        gradient: How the gradient of a batch is computed; by default that of its mean loss.
        placement: Devices and lanes; by default one lane on every device.
        seed: All randomness is folded from it.
        noise: uint32 [2], two secret random words from which the noise of updates is folded. None
            folds the noise from ``seed``, and whoever knows the seed can subtract it.
        examples_sharded: Whether each device holds its own part of the examples.
        chunk_steps: The most steps of a lane in one dispatch; None for a whole round.
    """

    loss_fn: LossFn
    algorithm: Algorithm
    offsets: npt.ArrayLike
    batching: Batching
    cohort_size: int | None = None
    participation: Participation = field(default_factory=Participation)
    clock: Clock | None = None
    client_weights: ClientWeights | npt.ArrayLike = "examples"
    aggregator: Aggregator = field(default_factory=mean)
    gradient: Gradient = field(default_factory=mean_gradient)
    placement: Placement = field(default_factory=make_placement)
    seed: int = 0
    noise: npt.NDArray[np.uint32] | None = None
    examples_sharded: bool = False
    chunk_steps: int | None = None

    def __post_init__(self) -> None:
        if self._weights.shape != (self.num_clients,) or not (self._weights >= 0).all():
            raise ValueError(
                f"client_weights has shape {self._weights.shape}: give one number, 0 or more, for "
                f"each of {self.num_clients} clients"
            )
        trace = self.participation.available
        idle = np.flatnonzero((self.num_steps < 1) & (trace is None or trace.any(axis=0)))
        if len(idle):
            raise ValueError(
                f"client {idle[0]} has {self.sizes[idle[0]]} examples, which give no local step: "
                "leave it out, lower batch_size, or set partial_batch='weight'"
            )
        if self.batching.capacity % self.placement.data_parallel:
            raise ValueError(
                f"batch_size={self.batching.capacity} cannot be split evenly over "
                f"data_parallel={self.placement.data_parallel} devices: make it a multiple"
            )
        if not 1 <= self._cohort_size <= self.num_clients:
            raise ValueError(
                f"cohort_size={self.cohort_size}: there are {self.num_clients} clients"
            )

    @cached_property
    def sizes(self) -> IntArray:
        """[K] examples of each client."""
        offsets = np.asarray(self.offsets, np.int64)
        return offsets[1:] - offsets[:-1]

    @cached_property
    def num_steps(self) -> IntArray:
        """[K] local steps a round of each client."""
        return self.batching.num_steps(self.sizes)

    @cached_property
    def _weights(self) -> npt.NDArray[np.float64]:
        """[K] weights of the whole population."""
        if isinstance(self.client_weights, str):
            by_name = {"examples": self.sizes, "uniform": np.ones(self.num_clients)}
            if self.client_weights not in by_name:
                raise ValueError(
                    f"client_weights={self.client_weights!r}: choose 'examples' or 'uniform', or "
                    "give one number a client"
                )
            return by_name[self.client_weights].astype(np.float64)
        return np.asarray(self.client_weights, np.float64)

    @property
    def num_clients(self) -> int:
        """K."""
        return len(self.sizes)

    @property
    def _cohort_size(self) -> int:
        return self.num_clients if self.cohort_size is None else self.cohort_size

    @property
    def most_clients(self) -> int:
        """The most clients that a round may have."""
        return self.participation.most(self._cohort_size, self.num_clients)

    @cached_property
    def limits(self) -> Limits:
        """Sizes that hold for every round."""
        return limits(
            self.num_steps,
            self.most_clients,
            num_devices=self.placement.num_devices,
            lanes=self.placement.lanes,
            device=self.home_device,
        )

    @property
    def steps_at_once(self) -> int:
        """C, the steps of a lane in one dispatch."""
        return min(self.chunk_steps or self.limits.steps, self.limits.steps)

    @cached_property
    def home_device(self) -> IntArray | None:
        """[K] the device that keeps each client's state; None if clients keep nothing."""
        if not self.algorithm.stateful:
            return None
        return pin(self.num_steps, self.placement.num_devices)

    @cached_property
    def slots(self) -> tuple[IntArray, int]:
        """[K] the place of each client's state on its device, and the places a device needs."""
        if self.home_device is None:
            return np.zeros(self.num_clients, np.int64), 1
        slot = rank_within(self.home_device)
        return slot, int(slot.max()) + 1

    @property
    def _compiled_algorithm(self) -> Algorithm:
        return self.algorithm

    @property
    def _after(self) -> After | None:
        """What follows the server's update in a round."""
        return None

    @cached_property
    def _round(self) -> RoundFn:
        return make_round(
            self.loss_fn,
            self._compiled_algorithm,
            self.aggregator,
            self.gradient,
            self.placement,
            examples_sharded=self.examples_sharded,
            after=self._after,
        )

    @cached_property
    def _key_words(self) -> npt.NDArray[np.uint32]:
        return np.asarray(jax.random.key_data(jax.random.key(self.seed)))

    @cached_property
    def noise_words(self) -> npt.NDArray[np.uint32]:
        """[2] the words of the key from which the noise of updates is folded."""
        if self.noise is not None:
            return np.asarray(self.noise, np.uint32)
        key = fold(jax.random.key(self.seed), "noise")
        return np.asarray(jax.random.key_data(key))

    @property
    def compilations(self) -> int:
        """How often the round was compiled so far: once, whatever the cohorts."""
        return self._round._cache_size()  # type: ignore[attr-defined]

    def init(self, params: Params) -> FederationState:
        """The state before the first round, placed on the devices.

        Raises:
            ValueError: If clients keep a state, and the algorithm says that they do not.
        """
        kept = jax.tree.leaves(jax.eval_shape(self.algorithm.init_client, params))
        if kept and not self.algorithm.stateful:
            raise ValueError("clients keep a state: build the Algorithm with stateful=True")
        everywhere = self.placement.put(params, self.placement.replicated)
        return jax.jit(self._first_state, out_shardings=state_shardings(self.placement))(everywhere)

    def state_shapes(self, params: Params) -> FederationState:
        """Shapes and shardings of ``init(params)``, which is not run."""

        def shaped(sharding: jax.sharding.Sharding, part: Tree) -> Tree:
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), part
            )

        shapes = jax.eval_shape(self._first_state, params)
        return FederationState(*map(shaped, state_shardings(self.placement), shapes))

    def _first_state(self, params: Params) -> FederationState:
        devices = self.placement.num_devices
        algorithm = self._compiled_algorithm
        # Weak types, as those of Python numbers, would not come back and so compile a second time.
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), params)
        server, client = algorithm.init_server(params), algorithm.init_client(params)
        training = no_training(
            algorithm, self.aggregator, server, client, self.placement.lanes, self.limits.clients
        )
        return FederationState(
            server,
            _repeated(client, devices * self.slots[1]),
            self.aggregator.init(update_shape(algorithm, server, client)),
            training._replace(
                lanes=jax.tree.map(lambda leaf: jnp.concatenate([leaf] * devices), training.lanes),
                gathered=_repeated(training.gathered, devices),
                metrics=_repeated(training.metrics, devices),
            ),
        )

    def client_params(self, state: FederationState, client: int) -> Params:
        """The model that a client would use: the server's, with its own personal parameters."""
        home = 0 if self.home_device is None else int(self.home_device[client])
        place = home * self.slots[1] + int(self.slots[0][client])
        kept = jax.tree.map(lambda leaf: leaf[place], state.clients)
        return self.algorithm.client_params(state.server, kept)

    def traffic(self, params: Params) -> Traffic:
        """Bytes that a client receives and sends in a round, from the parameters' shapes."""
        algorithm = self.algorithm
        server = jax.eval_shape(algorithm.init_server, params)
        client = jax.eval_shape(algorithm.init_client, params)
        return Traffic(
            tree_bytes(jax.eval_shape(algorithm.broadcast, server)),
            algorithm.upload_bytes(update_shape(algorithm, server, client)),
        )

    def replicate(self, examples: Tree) -> Tree:
        """Puts the examples [R, ...] of all clients on every device."""
        return self.placement.put(examples, self.placement.replicated)

    def _sampling_seed(self, *, secret: bool) -> list[int]:
        # Sampling hides who takes part only from those who cannot repeat the draw.
        return [int(word) for word in self.noise_words] if secret else [self.seed]

    def cohort(self, round_index: int) -> IntArray:
        """The clients that are asked in a round, in ascending order."""
        first, *others = self._sampling_seed(secret=self.participation.sampling == "poisson")
        rng = host_rng(first, *others, "cohort", round_index)
        return self.participation.draw(self._cohort_size, self.sizes, round_index, rng)

    def client_weight(
        self, clients: Sequence[int] | IntArray, asked: Sequence[int] | IntArray | None = None
    ) -> npt.NDArray[np.float64]:
        """Aggregation weights p_k of clients; those of all that were asked sum to 1.

        A client that does not answer changes no other weight, which a bound on the influence of one
        client needs; ``aggregate.mean`` divides by the weights that came in. Under Poisson sampling
        the weights sum to 1 on average.

        Args:
            clients: The clients.
            asked: The cohort; by default ``clients``.

        Raises:
            ValueError: If every weight of the cohort is zero.
        """
        weights = self._weights[np.asarray(clients, np.int64)]
        if self.participation.sampling == "poisson":
            return weights / (self._weights.mean() * self._cohort_size)
        whole = self._weights[np.asarray(clients if asked is None else asked, np.int64)].sum()
        if len(weights) and not whole > 0:
            raise ValueError(f"every client of the cohort {list(clients)} has weight zero")
        return weights / whole if len(weights) else weights

    def coverage(self, asked: Sequence[int] | IntArray) -> float:
        """A cohort's share of the population's weight; under Poisson sampling the mean share."""
        if self.participation.sampling == "poisson":
            return self._cohort_size / self.num_clients
        return float(self._weights[np.asarray(asked, np.int64)].sum() / self._weights.sum())

    def plan(self, round_index: int, cohort: Sequence[int] | IntArray | None = None) -> HostPlan:
        """Decides a round.

        Args:
            round_index: The round.
            cohort: The clients that are asked, in any order; by default those that are drawn.
        """
        asked = np.asarray(self.cohort(round_index) if cohort is None else cohort, np.int64)
        if len(asked) > self.most_clients:
            raise ValueError(f"a cohort of {len(asked)} exceeds cohort_size={self.most_clients}")
        clients, late, seconds = asked, asked[:0], math.nan
        if self.clock is not None:
            asked = np.sort(asked)
            rng = host_rng(self.seed, "clock", round_index)
            in_time, seconds = self.clock.answers(asked, self.num_steps[asked], rng)
            clients, late = asked[in_time], asked[~in_time]
        home = self.home_device
        device = None if home is None else home[clients]
        schedule, rows = self._pack(round_index, clients, device)
        weight, slot = self.client_weight(schedule.client, asked), self.slots[0][schedule.client]
        table = events(schedule, weight, slot, self.limits)
        return HostPlan(round_index, schedule, table, rows, late, seconds, asked)

    def _pack(
        self, round_index: int, clients: IntArray, device: IntArray | None
    ) -> tuple[Schedule, npt.NDArray[np.int32]]:
        """The clients packed into lanes, and the rows that each of their steps takes."""
        schedule = pack(
            clients,
            self.num_steps[clients],
            num_devices=self.placement.num_devices,
            lanes=self.placement.lanes,
            device=device,
        )
        rows = round_rows(
            schedule,
            self.offsets,
            self.batching,
            seed=self._sampling_seed(secret=self.batching.sampling == "poisson"),
            round_index=round_index,
            max_steps=self.limits.steps,
        )
        return schedule, rows

    def chunks(self, plan: HostPlan, begin: int = 0) -> range:
        """The first steps of a round's chunks, from ``begin`` on."""
        return range(begin, max(plan.schedule.makespan, 1), self.steps_at_once)

    def is_last(self, plan: HostPlan, begin: int) -> bool:
        """Whether a round ends with the chunk that begins at a step."""
        return begin + self.steps_at_once >= plan.schedule.makespan

    def rows(self, plan: HostPlan, begin: int) -> npt.NDArray[np.int32]:
        """int32 [D, C, L, B]: the rows of a chunk's examples, ``EMPTY`` beyond its end."""
        rows = plan.rows[:, begin : begin + self.steps_at_once]
        # At least two steps: XLA would move the reading of a single step out of the loop, and then
        # fuse and round differently than in larger chunks.
        missing = max(self.steps_at_once, 2) - rows.shape[1]
        return np.pad(rows, ((0, 0), (0, missing), (0, 0), (0, 0)), constant_values=EMPTY)

    def run_round(
        self, state: FederationState, examples: Tree, plan: HostPlan
    ) -> tuple[FederationState, RoundMetrics]:
        """Dispatches a round, chunk by chunk, and returns before it is done.

        Args:
            state: It is donated: do not use it afterwards.
            examples: On the devices, as ``replicate`` puts them.
            plan: From ``self.plan``.
        """
        for begin in self.chunks(plan):
            state, metrics = self.run_chunk(state, examples, plan, begin)
        return state, metrics

    def run_chunk(
        self,
        state: FederationState,
        examples: Tree,
        plan: HostPlan,
        begin: int = 0,
        rows: npt.NDArray[np.int32] | None = None,
    ) -> tuple[FederationState, RoundMetrics]:
        """Dispatches a chunk of a round, and returns before it is done.

        Args:
            state: That after the chunk before. It is donated: do not use it afterwards.
            examples: On the devices; those of all clients, or at least those of the chunk.
            plan: From ``self.plan``.
            begin: The chunk's first step, one of ``self.chunks(plan)``.
            rows: The chunk's rows as numbers inside ``examples``; by default ``self.rows``.
        """
        return self._round(state, examples, self._on_device(plan, begin, rows))

    def lower(
        self,
        state: FederationState,
        examples: Tree,
        plan: HostPlan,
        rows: npt.NDArray[np.int32] | None = None,
    ) -> jax.stages.Lowered:
        """The lowered round, to look at its text or to compile; runs nothing.

        Arguments are those of ``run_chunk``; ``state`` and ``examples`` may be shapes with
        shardings.
        """
        lowered: jax.stages.Lowered = self._round.lower(  # type: ignore[attr-defined]
            state, examples, self._on_device(plan, 0, rows)
        )
        return lowered

    def _on_device(self, plan: HostPlan, begin: int, rows: npt.NDArray[np.int32] | None) -> Plan:
        end = min(begin + self.steps_at_once, plan.schedule.makespan)
        chunk: dict[str, Any] = {
            "round_index": np.int32(plan.round_index),
            "coverage": np.float32(self.coverage(plan.asked)),
            "key": self._key_words,
            "noise": self.noise_words,
            "cohort": (plan.events.client.ravel(), plan.events.weight.ravel()),
            "events": plan.events,
            "segments": segments(plan.schedule, self.limits, begin, end),
            "first_step": np.int32(begin),
            "last": np.bool_(self.is_last(plan, begin)),
            "rows": self.rows(plan, begin) if rows is None else rows,
            "after": plan.after,
        }
        return self.placement.put(Plan(**chunk), plan_shardings(self.placement))

    def results(self, plan: HostPlan, metrics: RoundMetrics) -> list[ClientResult]:
        """The result of each client, in the schedule's order; waits until the round is done."""
        return client_results(plan, metrics)


def _repeated(tree: Tree, count: int) -> Tree:
    """Leaves [count, ...], all alike."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * count), tree)
