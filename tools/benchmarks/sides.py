"""The sides of a comparison: ours, a Python loop, and peers in their own processes.

Each trains the same ``Task``. In the round that is compared all take a client's examples in the
task's order, so that after it every side must hold the same parameters. Later rounds are timed.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import numpy.typing as npt
import optax
from jax.sharding import NamedSharding, PartitionSpec

from tools.benchmarks.measure import timed
from tools.benchmarks.models import MODELS, losses
from tools.benchmarks.peers.exchange import Arrays, Task
from tools.benchmarks.peers.process import Peer
from ufm_jax.fed.algorithm import Tree
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import CLIENTS, Placement
from ufm_jax.fed.plan import HostPlan

TOLERANCE = 1e-2
"""Distance from our parameters, over how far a round moves them, that rounding may explain.

Where the input of a ReLU rounds to the other side of zero, an example's gradient jumps: of millions
of inputs a few do, and sides were up to 3e-3 apart (with tanh in place of ReLU: 4e-5).
"""

LENGTH_TOLERANCE = 1e-4
"""The same over the length of our parameters."""

LOSS_TOLERANCE = 1e-3
"""Relative difference of the evaluated losses."""


class Checked(NamedTuple):
    """What is compared.

    Attributes:
        params: The global parameters after round 0.
        loss: Theirs on the test examples; None where a task has none.
    """

    params: Arrays
    loss: float | None


class Side(Protocol):
    """One that trains a task. ``check`` comes first, then ``prepare``."""

    def check(self) -> Checked:
        """Runs round 0 of ``task.compared``, each client's examples in the task's order."""

    def prepare(self) -> str:
        """Makes ready to be timed, and says what runs and how."""

    def run(self, rounds: int) -> float:
        """Runs rounds of the task to their end, and returns the seconds that they took."""


class Ours:
    """This project's engine, used as in the docstring of ``Federation``.

    Every round is planned anew on the host, inside the time, and shuffled anew. Metrics stay on the
    devices.
    """

    def __init__(self, task: Task, placement: Placement) -> None:
        """Puts the task's examples on the devices."""
        self._task, self._placement = task, placement
        self._examples = placement.put({"x": task.x, "y": task.y}, placement.replicated)
        self._evaluation = _Evaluation(task, placement)
        self._begin(task.compared)

    def _begin(self, task: Task) -> None:
        self._federation = Federation(
            partial(_losses_by_keys, task.model, task.dropout),
            fedavg(optax.sgd(task.learning_rate)),
            task.offsets,
            Batching(task.batch_size, task.local_epochs),
            cohort_size=task.cohorts.shape[1],
            placement=self._placement,
        )
        self._state = self._federation.init(task.params)
        self._round = 0

    def check(self) -> Checked:
        """See ``Side``."""
        plan = self._federation.plan(0, self._task.cohort(0))
        rows = rows_in_order(plan, self._task)
        self._state, _ = self._federation.run_chunk(self._state, self._examples, plan, 0, rows)
        self._round = 1
        params: Arrays = jax.device_get(self._state.server.params)
        return Checked(params, self._evaluation(self._state.server.params))

    def prepare(self) -> str:
        """See ``Side``."""
        if self._task.compared is not self._task:
            self._begin(self._task)
        self._rounds(1)
        useful = self._federation.plan(0, self._task.cohort(0)).schedule.useful_fraction
        return (
            f"{self._placement.num_devices} devices, {self._placement.lanes} lanes on each, "
            f"useful-slot fraction {useful:.3f}"
        )

    def run(self, rounds: int) -> float:
        """See ``Side``."""
        return timed(partial(self._rounds, rounds))()

    def _rounds(self, rounds: int) -> None:
        for done in range(1, rounds + 1):
            plan = self._federation.plan(self._round, self._task.cohort(self._round))
            self._state, _ = self._federation.run_round(self._state, self._examples, plan)
            self._round += 1
            if self._task.evaluates(done):
                self._evaluation(self._state.server.params)
        jax.block_until_ready(self._state)


class Loop:
    """A Python loop over clients and steps, each step one call of a jitted function."""

    def __init__(self, task: Task) -> None:
        """Takes the task; examples stay on the host, as they do in such loops."""
        self._task = task
        self._evaluation = _Evaluation(task, None)
        self._add = jax.jit(_add_scaled, donate_argnums=0)
        self._begin(task.compared)

    def _begin(self, task: Task) -> None:
        self._step = jax.jit(partial(_sgd_step, task.model, task.learning_rate, task.dropout))
        self._params = jax.device_put(task.params)
        self._round = 0

    def check(self) -> Checked:
        """See ``Side``."""
        self._rounds(1)
        params: Arrays = jax.device_get(self._params)
        return Checked(params, self._evaluation(self._params))

    def prepare(self) -> str:
        """See ``Side``."""
        if self._task.compared is not self._task:
            self._begin(self._task)
        self._rounds(1)
        return "one device, one dispatch a step"

    def run(self, rounds: int) -> float:
        """See ``Side``."""
        return timed(partial(self._rounds, rounds))()

    def _rounds(self, rounds: int) -> None:
        for done in range(1, rounds + 1):
            self._params = self._one_round(self._task.cohort(self._round))
            self._round += 1
            if self._task.evaluates(done):
                self._evaluation(self._params)
        jax.block_until_ready(self._params)

    def _one_round(self, cohort: list[int]) -> Tree:
        size, total = self._task.batch_size, self._task.sizes[cohort].sum()
        mean = jax.tree.map(np.zeros_like, self._task.params)
        for client in cohort:
            x, y = self._task.client(client)
            local = self._params
            for step, start in enumerate([*range(0, len(y), size)] * self._task.local_epochs):
                batch = {"x": x[start : start + size], "y": y[start : start + size]}
                local = self._step(local, batch, np.array([self._round, client, step], np.int32))
            mean = self._add(mean, np.float32(len(y) / total), local)
        return mean


class PeerSide:
    """A side in a process of its own; see ``peers``."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        """Takes a peer, and the folder of a task."""
        self._peer, self._folder = peer, str(folder)
        self._result = folder / f"result-{id(self)}.npz"

    def check(self) -> Checked:
        """See ``Side``."""
        answer = self._peer.ask("check", folder=self._folder, result=str(self._result))
        with np.load(self._result) as params:
            return Checked(dict(params), answer["loss"])

    def prepare(self) -> str:
        """See ``Side``."""
        return str(self._peer.ask("prepare", folder=self._folder)["note"])

    def run(self, rounds: int) -> float:
        """See ``Side``."""
        return float(self._peer.ask("run", rounds=rounds)["seconds"])


def rows_in_order(plan: HostPlan, task: Task) -> npt.NDArray[np.int32]:
    """[D, T, L, B] the rows of a plan, with each client's examples in the task's order."""
    schedule = plan.schedule
    rows = np.full_like(plan.rows, -1)
    device, lane = np.divmod(schedule.lane, schedule.lanes)
    for i, client in enumerate(schedule.client):
        steps, first = schedule.num_steps[i], schedule.first_step[i]
        example = np.arange(steps * task.batch_size) % task.sizes[client]
        rows[device[i], first : first + steps, lane[i]] = task.offsets[client] + example.reshape(
            steps, -1
        )
    return rows


def distance(theirs: Arrays, ours: Arrays) -> float:
    """Euclidean distance, all parameters as one vector; raises where ``theirs`` lacks one."""
    return _length({name: theirs[name] - ours[name] for name in ours})


def check_agreement(name: str, theirs: Checked, ours: Checked, before: Arrays) -> float:
    """How far a side's parameters are from ours after round 0, over how far the round moved ours.

    Measured against the parameters themselves, a round that does next to nothing would agree.

    Args:
        name: The side.
        theirs: What it computed.
        ours: What ours computed.
        before: What all began with.

    Raises:
        RuntimeError: If it exceeds a tolerance: such a side must not be timed.
    """
    moved, apart = distance(ours.params, before), distance(theirs.params, ours.params)
    allowed = min(TOLERANCE * moved, LENGTH_TOLERANCE * _length(ours.params))
    if not apart <= allowed:  # So that nan is refused too.
        raise RuntimeError(
            f"{name} does not compute the same round: its parameters end {apart / moved:.1e} of "
            f"the round's movement away from ours, where {allowed / moved:.0e} is allowed; its "
            "time would mean nothing"
        )
    if ours.loss is not None:
        assert theirs.loss is not None
        if not abs(theirs.loss - ours.loss) <= LOSS_TOLERANCE * abs(ours.loss):
            raise RuntimeError(
                f"{name} does not evaluate the same: its loss on the test examples is "
                f"{theirs.loss:.6g}, ours {ours.loss:.6g}; its time would mean nothing"
            )
    return apart / moved


def _length(params: Arrays) -> float:
    return float(np.linalg.norm([np.linalg.norm(leaf) for leaf in params.values()]))


class _Evaluation:
    """The loss on a task's test examples, on all devices of a placement or on one."""

    def __init__(self, task: Task, placement: Placement | None) -> None:
        self._batches: Tree = None
        if not task.evaluate_every:
            return
        if placement is None:
            self._batches = jax.device_put(task.test_batches)
        else:
            even = task.evaluate_batch % placement.num_devices == 0
            spec = PartitionSpec(None, CLIENTS) if even else PartitionSpec()
            sharding = NamedSharding(placement.mesh, spec)
            self._batches = placement.put(task.test_batches, sharding)
        self._loss = jax.jit(MODELS[task.model].evaluate)

    def __call__(self, params: Tree) -> float | None:
        return None if self._batches is None else float(self._loss(params, self._batches))


def _losses_by_keys(
    model: str, dropout: bool, params: Any, batch: Tree, keys: jax.Array
) -> jax.Array:
    return losses(MODELS[model].forward, params, batch, keys[0] if dropout else None)


def _sgd_step(
    model: str, learning_rate: float, dropout: bool, params: Any, batch: Tree, at: jax.Array
) -> Tree:
    key = jax.random.key(0)
    for number in at:
        key = jax.random.fold_in(key, number)
    grads = jax.grad(
        lambda p: losses(MODELS[model].forward_alone, p, batch, key if dropout else None).mean()
    )(params)
    return jax.tree.map(lambda leaf, grad: leaf - learning_rate * grad, params, grads)


def _add_scaled(total: Tree, scale: jax.Array, tree: Tree) -> Tree:
    return jax.tree.map(lambda a, b: a + scale * b, total, tree)
