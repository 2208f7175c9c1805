"""The contract of an update transform, and a chain of them around any algorithm.

A client's update passes through the chain before it leaves the client; the aggregate passes through
it backwards before the server uses it. With transforms f_1 .. f_n,

    client:  update <- f_n.send( .. f_1.send(update))
    server:  mean   <- f_1.receive( .. f_n.receive(mean))
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from ufm_jax.fed.algorithm import Algorithm, Outcome, Params, Tree, Turn, tree_bytes, update_shape
from ufm_jax.fed.keys import fold


def nothing(update: Tree) -> Tree:
    """The empty state."""
    del update
    return ()


class Transform(NamedTuple):
    """A transform of updates.

    Attributes:
        send: ``(server, client, update, turn) -> (update, client, report)`` on the client.
            ``server`` and ``client`` are this transform's own states; ``report`` is averaged like
            the update.
        receive: ``(server, mean_update, mean_report, key) -> (server, mean_update)`` on the server.
        init_server: ``update -> server``, from the update's shapes.
        init_client: ``update -> client``, from the update's shapes.
        stateful: Whether clients keep a state.
        num_bytes: ``update -> bytes`` that a client sends, from the update's shapes; None if the
            transform does not change them.
    """

    send: Callable[[Tree, Tree, Tree, Turn], tuple[Tree, Tree, Tree]]
    receive: Callable[[Tree, Tree, Tree, jax.Array], tuple[Tree, Tree]] = (
        lambda server, mean, report, key: (server, mean)
    )
    init_server: Callable[[Tree], Tree] = nothing
    init_client: Callable[[Tree], Tree] = nothing
    stateful: bool = False
    num_bytes: Callable[[Tree], int] | None = None


class Chained(NamedTuple):
    """A state of the algorithm beneath and that of each transform, for server, client or lane."""

    inner: Any
    transforms: tuple[Tree, ...]

    @property
    def params(self) -> Params:
        """The parameters: global on the server, the client's own while it trains."""
        return self.inner.params


class Update(NamedTuple):
    """What is averaged: the transformed update, and what each transform reports."""

    inner: Tree
    reports: tuple[Tree, ...]


def with_transforms(base: Algorithm, transforms: Sequence[Transform]) -> Algorithm:
    """An algorithm whose updates pass through a chain of transforms."""
    chain = tuple(transforms)
    if not chain:
        return base

    def shape(params: Params) -> Tree:
        return update_shape(base, base.init_server(params), base.init_client(params))

    def init_server(params: Params) -> Chained:
        sent = shape(params)
        return Chained(base.init_server(params), tuple(f.init_server(sent) for f in chain))

    def init_client(params: Params) -> Chained:
        sent = shape(params)
        return Chained(base.init_client(params), tuple(f.init_client(sent) for f in chain))

    def start(server: Chained, client: Chained) -> Chained:
        return Chained(base.start(server.inner, client.inner), client.transforms)

    def step(server: Chained, local: Chained, *rest: Any) -> tuple[Chained, jax.Array]:
        inner, loss = base.step(server.inner, local.inner, *rest)
        return Chained(inner, local.transforms), loss

    def end(server: Chained, local: Chained, turn: Turn) -> tuple[Update, Chained]:
        update, kept = base.end(server.inner, local.inner, turn)
        states, reports = [], []
        for i, f in enumerate(chain):
            own = turn._replace(key=fold(turn.key, "transform", i))
            update, state, report = f.send(server.transforms[i], local.transforms[i], update, own)
            states.append(state)
            reports.append(report)
        return Update(update, tuple(reports)), Chained(kept, tuple(states))

    def update_server(server: Chained, mean: Update, outcome: Outcome) -> Chained:
        update, states = mean.inner, list(server.transforms)
        for i, f in reversed(list(enumerate(chain))):
            own = fold(outcome.key, "transform", i)
            states[i], update = f.receive(states[i], update, mean.reports[i], own)
        return Chained(base.update_server(server.inner, update, outcome), tuple(states))

    def upload_bytes(update: Update) -> int:
        sizes = [f.num_bytes(update.inner) for f in chain if f.num_bytes]
        sent = sizes[-1] if sizes else base.upload_bytes(update.inner)
        return sent + tree_bytes(update.reports)

    return Algorithm(
        init_server,
        init_client,
        start,
        step,
        end,
        update_server,
        client_params=lambda server, client: base.client_params(server.inner, client.inner),
        broadcast=lambda server: (base.broadcast(server.inner), server.transforms),
        stateful=base.stateful or any(f.stateful for f in chain),
        upload_bytes=upload_bytes,
    )
