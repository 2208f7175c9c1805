"""FedBuff and FedAsync.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba, "Federated Learning with Buffered
Asynchronous Aggregation", AISTATS 2022 (Algorithm 1): once M updates have come in, the server takes
their mean, each scaled by its staleness tau (server updates since it started):

    w <- w - rate / M sum_j s(tau_j) (start_j - w_j)

Xie, Koyejo and Gupta, "Asynchronous Federated Optimization", 2019 (Algorithm 1), takes each as it
comes and goes from where the server is now: ``w <- w - rate s(tau) (w - w_j)``, which is M = 1 with
``towards_client``. The rate is that of the server optimiser.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ufm_jax.fed.algorithm import Algorithm, GradFn, Outcome, Params, Tree, Turn
from ufm_jax.fed.algorithms.fedavg import Update
from ufm_jax.fed.keys import fold
from ufm_jax.fed.placement import CLIENTS
from ufm_jax.fed.trees import entry, select, with_entry

Staleness = Callable[[int], float]
"""``tau -> s(tau)``."""


def polynomial(power: float) -> Staleness:
    """``(1 + tau)^-power``; 0.5 is FedBuff's."""
    return lambda tau: float((1 + tau) ** -power)


@dataclass(frozen=True)
class Asynchronous:
    """How the server federates without rounds.

    Attributes:
        concurrency: C, clients in flight at any time.
        buffer: M, arrivals for each update of the server.
        staleness: Weight of an update by its staleness.
        towards_client: Whether the server moves from where it is towards a client's parameters
            (FedAsync); otherwise it moves by how far the client went (FedBuff).
    """

    concurrency: int
    buffer: int
    staleness: Staleness
    towards_client: bool = False


class Server(NamedTuple):
    """The state of the algorithm beneath, and the sum and the number of the updates that wait."""

    inner: Any
    waiting: Params
    waiters: jax.Array

    @property
    def params(self) -> Params:
        """The global parameters."""
        return self.inner.params


class Slot(NamedTuple):
    """A client in flight: its parameters at start and end, and whether it ended well."""

    start: Params
    trained: Params
    good: jax.Array


class Local(NamedTuple):
    """A client while it trains, and the parameters from which it started."""

    inner: Any
    start: Params

    @property
    def params(self) -> Params:
        """The client's parameters."""
        return self.inner.params


class Arrivals(NamedTuple):
    """The arrivals of a wave as the devices read them; every array but ``number`` is [A].

    Attributes:
        number: int32 [], the number of arrivals.
        device, place: The device of the slot, and its place there.
        factor: s(tau).
        lost: Whether the update was lost.
        flush: Whether the server updates its parameters.
    """

    number: jax.Array
    device: jax.Array
    place: jax.Array
    factor: jax.Array
    lost: jax.Array
    flush: jax.Array


def in_slots(base: Algorithm) -> Algorithm:
    """An algorithm whose "clients" are slots, each of which starts from its slot's parameters.

    Args:
        base: FedAvg whose clients keep no state.
    """

    def at(server: Server, start: Params) -> Any:
        return server.inner._replace(params=start)

    def init_server(params: Params) -> Server:
        return Server(base.init_server(params), optax.tree.zeros_like(params), jnp.float32(0))

    def init_slot(params: Params) -> Slot:
        return Slot(params, params, jnp.bool_(False))

    def start(server: Server, slot: Slot) -> Local:
        return Local(base.start(at(server, slot.start), base.init_client(slot.start)), slot.start)

    def step(
        server: Server, local: Local, grad_fn: GradFn, progress: jax.Array
    ) -> tuple[Local, jax.Array]:
        inner, loss = base.step(at(server, local.start), local.inner, grad_fn, progress)
        return Local(inner, local.start), loss

    def end(server: Server, local: Local, turn: Turn) -> tuple[Tree, Slot]:
        del server, turn
        return (), Slot(local.start, local.params, jnp.bool_(True))

    return Algorithm(
        init_server,
        init_slot,
        start,
        step,
        end,
        update_server=lambda server, update, outcome: server,
        client_params=lambda server, slot: server.params,
        broadcast=lambda server: base.broadcast(server.inner),
        stateful=True,
        upload_bytes=base.upload_bytes,
    )


def take_arrivals(
    base: Algorithm,
    way: Asynchronous,
    server: Server,
    slots: Slot,
    arrivals: Arrivals,
    key: jax.Array,
) -> tuple[Server, Slot]:
    """Adds a wave's arrivals one after another, and puts the next clients' starts into their slots.

    It runs on every device, each with its own ``slots`` [P, ...].
    """

    def take(j: jax.Array, carry: tuple[Server, Slot]) -> tuple[Server, Slot]:
        server, slots = carry
        mine = lax.axis_index(CLIENTS) == arrivals.device[j]
        place = arrivals.place[j]
        own = entry(slots, place)
        good = lax.psum(jnp.where(mine & own.good, 1.0, 0.0), CLIENTS)
        good = jnp.where(arrivals.lost[j], 0.0, good)
        # A slot whose client did not end well may hold anything.
        shown = select(mine & own.good, (own.start, own.trained), (server.params, server.params))
        moved = jax.tree.map(
            lambda begin, end, now: (now if way.towards_client else begin) - end,
            *shown,
            server.params,
        )
        moved = lax.psum(select(mine, moved, optax.tree.zeros_like(moved)), CLIENTS)
        waiting = optax.tree.add_scale(server.waiting, good * arrivals.factor[j], moved)
        waited = Server(server.inner, waiting, server.waiters + good)
        server = lax.cond(
            arrivals.flush[j], lambda: _flushed(base, waited, fold(key, j)), lambda: waited
        )
        fresh = Slot(server.params, own.trained, jnp.bool_(False))
        slots = with_entry(slots, place, select(mine, fresh, own))
        return server, slots

    return lax.fori_loop(0, arrivals.number, take, (server, slots))


def _flushed(base: Algorithm, server: Server, key: jax.Array) -> Server:
    """The server after an update with the mean of the waiting updates that were not refused."""
    mean = optax.tree.scale(1 / jnp.maximum(server.waiters, 1), server.waiting)
    updated = base.update_server(server.inner, Update(mean, ()), Outcome(jnp.float32(1), key))
    # An optimiser with momentum would move the server without any update.
    inner = select(server.waiters > 0, updated, server.inner)
    return Server(inner, optax.tree.zeros_like(server.waiting), jnp.zeros_like(server.waiters))
