"""The sides of the engine's comparison: ours, a Python loop, and peers in their own processes.

Each trains the same ``Task``. The order of its rows is that of our round 0, so that after one round
every side must hold the same parameters; later rounds are for timing.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import numpy.typing as npt
import optax

from tools.benchmarks.federations import MODELS, losses
from tools.benchmarks.measure import timed
from tools.benchmarks.peers.environment import TORCH, make_environment
from tools.benchmarks.peers.exchange import Arrays, Task
from tools.benchmarks.peers.process import Peer
from ufm_jax.fed.algorithm import Tree
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import Placement
from ufm_jax.fed.plan import HostPlan

TOLERANCE = 1e-2
"""Distance from our parameters, over how far a round moves them, that rounding may explain.

Where the input of a ReLU rounds to the other side of zero, an example's gradient jumps: of millions
of inputs a few do, and sides were up to 3e-3 apart (with tanh in place of ReLU: 4e-5).
"""

LENGTH_TOLERANCE = 1e-4
"""The same over the length of our parameters."""

_PEERS = Path(__file__).parent / "peers"
_ROOT = Path(__file__).resolve().parents[2]


class Side(Protocol):
    """One that trains a task. ``first_round`` comes before ``run``."""

    @property
    def note(self) -> str:
        """With what it runs, once ``first_round`` is done."""

    def first_round(self) -> Arrays:
        """Runs round 0 and returns the global parameters after it."""

    def run(self, rounds: int) -> float:
        """Runs more rounds to their end, and returns the seconds that they took."""


class Ours:
    """This project's engine, used as in the docstring of ``Federation``.

    Every round is planned anew on the host, inside the time, and shuffled anew. Metrics stay on the
    devices.

    Attributes:
        task: The task with its rows in the order of round 0: what the other sides get.
    """

    def __init__(self, task: Task, placement: Placement) -> None:
        """Puts the task's examples, in the order given, on the devices."""
        self._federation = Federation(
            partial(_losses_by_keys, task.model),
            fedavg(optax.sgd(task.learning_rate)),
            task.offsets,
            Batching(task.batch_size),
            placement=placement,
        )
        self._examples = self._federation.replicate({"x": task.x, "y": task.y})
        self._state = self._federation.init(task.params)
        self._round = 0
        plan = self._federation.plan(0)
        self.useful = plan.schedule.useful_fraction
        self.task = task.in_order(rows_by_client(plan))

    @property
    def note(self) -> str:
        """Devices and lanes."""
        placement = self._federation.placement
        return (
            f"{placement.num_devices} devices, {placement.lanes} lanes on each, "
            f"useful-slot fraction {self.useful:.3f}"
        )

    def first_round(self) -> Arrays:
        """See ``Side``."""
        self._rounds(1)
        params: Arrays = jax.device_get(self._state.server.params)
        return params

    def run(self, rounds: int) -> float:
        """See ``Side``."""
        return timed(partial(self._rounds, rounds))()

    def _rounds(self, rounds: int) -> None:
        for _ in range(rounds):
            plan = self._federation.plan(self._round)
            self._state, _ = self._federation.run_round(self._state, self._examples, plan)
            self._round += 1
        jax.block_until_ready(self._state)


class Loop:
    """A Python loop over clients and steps, each step one call of a jitted function."""

    note = "one device, one dispatch a step"

    def __init__(self, task: Task) -> None:
        """Takes the task; examples stay on the host, as they do in such loops."""
        self._task = task
        self._params = jax.device_put(task.params)
        self._step = jax.jit(partial(_sgd_step, task.model, task.learning_rate))
        self._add = jax.jit(_add_scaled, donate_argnums=0)

    def first_round(self) -> Arrays:
        """See ``Side``."""
        self._rounds(1)
        params: Arrays = jax.device_get(self._params)
        return params

    def run(self, rounds: int) -> float:
        """See ``Side``."""
        return timed(partial(self._rounds, rounds))()

    def _rounds(self, rounds: int) -> None:
        for _ in range(rounds):
            self._params = self._one_round()
        jax.block_until_ready(self._params)

    def _one_round(self) -> Tree:
        size, total = self._task.batch_size, len(self._task.y)
        mean = jax.tree.map(np.zeros_like, self._task.params)
        for x, y in self._task.clients:
            local = self._params
            for start in range(0, len(y), size):
                batch = {"x": x[start : start + size], "y": y[start : start + size]}
                local = self._step(local, batch)
            mean = self._add(mean, np.float32(len(y) / total), local)
        return mean


class PeerSide:
    """A side in a process of its own; see ``peers``."""

    def __init__(self, peer: Peer, task: Task, folder: Path) -> None:
        """Hands the task over as a file in ``folder``."""
        self._peer, self._result = peer, folder / "result.npz"
        self.note = ""
        task.save(folder / "task.npz")
        peer.ask("load", file=str(folder / "task.npz"))

    def first_round(self) -> Arrays:
        """See ``Side``."""
        self.note = self._peer.ask("first_round", file=str(self._result))["note"]
        with np.load(self._result) as params:
            return dict(params)

    def run(self, rounds: int) -> float:
        """See ``Side``."""
        return float(self._peer.ask("run", rounds=rounds)["seconds"])


class PeerKind(NamedTuple):
    """How to run a peer.

    Attributes:
        script: In the folder ``peers``.
        requirements: What pip installs for it, by accelerator.
        variables: Environment variables on top of this process's.
    """

    script: str
    requirements: Mapping[str, tuple[str, ...]]
    variables: Mapping[str, str]


_FEDJAX = ("fedjax==0.0.17", "dm-haiku==0.0.17", "optax==0.2.8", "numpy<2.5")
_PFL = ("pfl==0.6.0", "numpy<2.5")
PEERS = {
    "fedjax": PeerKind(
        "fedjax_side.py",
        {"cpu": (*_FEDJAX, "jax==0.10.2"), "cuda": (*_FEDJAX, "jax[cuda13]==0.10.2")},
        # Several processes share an accelerator; jax reserves three quarters of it by itself.
        {
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_DEFAULT_MATMUL_PRECISION": "float32",
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3",
        },
    ),
    "pfl": PeerKind(
        "pfl_side.py",
        {accelerator: (*_PFL, torch) for accelerator, torch in TORCH.items()},
        # While it waits for its turn, its threads must not spin.
        {"OMP_WAIT_POLICY": "passive"},
    ),
}


@contextmanager
def running_peer(name: str, accelerator: str) -> Iterator[Peer]:
    """Starts a peer, in an environment that is made where it is missing.

    Args:
        name: Among ``PEERS``.
        accelerator: ``cpu`` or ``cuda``.

    Raises:
        RuntimeError: If its environment cannot be made.
    """
    kind = PEERS[name]
    python = make_environment(f"{name}-{accelerator}", kind.requirements[accelerator])
    variables = {**os.environ, **kind.variables, "PYTHONPATH": str(_ROOT)}
    variables["JAX_PLATFORMS"] = accelerator
    if accelerator == "cpu":
        variables["PFL_PYTORCH_DEVICE"] = "cpu"
    with Peer(python, _PEERS / kind.script, variables) as peer:
        yield peer


@contextmanager
def peer_side(peer: Peer, task: Task) -> Iterator[PeerSide]:
    """A peer's side of one task; the files between the processes go with it."""
    with tempfile.TemporaryDirectory() as folder:
        yield PeerSide(peer, task, Path(folder))


def rows_by_client(plan: HostPlan) -> npt.NDArray[np.int32]:
    """[R] the rows that a round uses, client by client, in the order in which each trains."""
    schedule = plan.schedule
    device, lane = np.divmod(schedule.lane, schedule.lanes)
    spans = zip(device, lane, schedule.first_step, schedule.num_steps, strict=True)
    rows = [plan.rows[d, first : first + count, at].reshape(-1) for d, at, first, count in spans]
    return np.concatenate([rows[i] for i in np.argsort(schedule.client)])


def distance(theirs: Arrays, ours: Arrays) -> float:
    """Euclidean distance, all parameters as one vector; raises where ``theirs`` lacks one."""
    return _length({name: theirs[name] - ours[name] for name in ours})


def check_agreement(name: str, theirs: Arrays, ours: Arrays, before: Arrays) -> float:
    """How far a side's parameters are from ours after round 0, over how far the round moved ours.

    Measured against the parameters themselves, a round that does next to nothing would agree.

    Args:
        name: The side.
        theirs: Its parameters after round 0.
        ours: Ours.
        before: What all began with.

    Raises:
        RuntimeError: If it exceeds a tolerance: such a side must not be timed.
    """
    moved, apart = distance(ours, before), distance(theirs, ours)
    allowed = min(TOLERANCE * moved, LENGTH_TOLERANCE * _length(ours))
    if not apart <= allowed:  # So that nan is refused too.
        raise RuntimeError(
            f"{name} does not compute the same round: its parameters end {apart / moved:.1e} of "
            f"the round's movement away from ours, where {allowed / moved:.0e} is allowed; its "
            "time would mean nothing"
        )
    return apart / moved


def _length(params: Arrays) -> float:
    return float(np.linalg.norm([np.linalg.norm(leaf) for leaf in params.values()]))


def _losses_by_keys(model: str, params: Any, batch: Tree, keys: jax.Array) -> jax.Array:
    del keys
    return losses(MODELS[model].forward, params, batch)


def _sgd_step(model: str, learning_rate: float, params: Any, batch: Tree) -> Tree:
    grads = jax.grad(lambda p: losses(MODELS[model].forward_alone, p, batch).mean())(params)
    return jax.tree.map(lambda leaf, grad: leaf - learning_rate * grad, params, grads)


def _add_scaled(total: Tree, scale: jax.Array, tree: Tree) -> Tree:
    return jax.tree.map(lambda a, b: a + scale * b, total, tree)
