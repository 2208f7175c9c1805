"""The client's half of a round, for a client that stands apart from the server and the others.

A site trains by the compiled round, as a cohort of one. It has its client's number, from which its
batches and random keys are folded, so that it takes the steps which that client takes in the
federation. In place of a new model, the round leaves the client's update::

    site = site_of(federation, client)
    state = site.begin(receive(site.algorithm, first, message), kept)
    state, metrics = site.run_round(state, examples, site.plan(r))
    update, kept = site.end(state)

``server.server_half`` takes the updates.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.fed.aggregate.mean import mean
from ufm_jax.fed.algorithm import Algorithm, Params, Tree, update_shape
from ufm_jax.fed.engine import FederationState
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.participation import Participation
from ufm_jax.fed.placement import make_placement
from ufm_jax.fed.schedule import IntArray, Limits
from ufm_jax.fed.trees import entry, zeros


class Received(NamedTuple):
    """The server's state as a client has it, and after a round the client's update."""

    inner: Any
    update: Tree

    @property
    def params(self) -> Params:
        """The server's parameters."""
        return self.inner.params


@dataclass(frozen=True, kw_only=True)
class Site(Federation):
    """One client alone with its examples: the last of the population, the others being empty."""

    @cached_property
    def slots(self) -> tuple[IntArray, int]:
        """The place of the client's state: the only one."""
        return np.zeros(self.num_clients, np.int64), 1

    @cached_property
    def limits(self) -> Limits:
        """Sizes that hold for every round."""
        # At least two places: XLA would fold indices of a single one, and then fuse and round
        # differently than in the federation.
        return super().limits._replace(clients=2)

    @cached_property
    def _compiled_algorithm(self) -> Algorithm:
        return sending(self.algorithm)

    def begin(self, server: Any, kept: Tree) -> FederationState:
        """The state before a round, from what ``receive`` gives and what the client keeps."""
        fresh = self.init(server.params)
        # Copied, since a round donates its state.
        server, kept = jax.tree.map(jnp.copy, (server, kept))
        return fresh._replace(
            server=fresh.server._replace(
                inner=self.placement.put(server, self.placement.replicated)
            ),
            clients=self.placement.put(
                jax.tree.map(lambda leaf: leaf[None], kept), self.placement.sharded
            ),
        )

    def end(self, state: FederationState) -> tuple[Tree, Tree]:
        """The update that the client sends after a round, and what it keeps, on the host."""
        found: tuple[Tree, Tree] = jax.device_get((state.server.update, entry(state.clients, 0)))
        return found


def site_of(federation: Federation, client: int) -> Site:
    """A client's site; its examples are the rows from 0 on.

    Args:
        federation: Only the number of examples of this client is used, and no other client's.
        client: Its number.
    """
    offsets = np.zeros(client + 2, np.int64)
    offsets[-1] = federation.sizes[client]
    parts = {part.name: getattr(federation, part.name) for part in fields(Federation)}
    groups = federation.placement.data_parallel
    return Site(
        **parts
        | {
            "offsets": offsets,
            "cohort_size": 1,
            "participation": Participation(available=np.arange(client + 1)[None] == client),
            "clock": None,
            "client_weights": "examples",
            "aggregator": mean(),
            "placement": make_placement(groups, 1, data_parallel=groups),
        }
    )


def sending(algorithm: Algorithm) -> Algorithm:
    """``algorithm``, by which a round leaves the server as it was and keeps the mean update."""

    def init_server(params: Params) -> Received:
        server, client = algorithm.init_server(params), algorithm.init_client(params)
        return Received(server, zeros(update_shape(algorithm, server, client)))

    return algorithm._replace(
        init_server=init_server,
        start=lambda server, client: algorithm.start(server.inner, client),
        step=lambda server, *rest: algorithm.step(server.inner, *rest),
        end=lambda server, *rest: algorithm.end(server.inner, *rest),
        update_server=lambda server, update, outcome: Received(server.inner, update),
    )


def receive(algorithm: Algorithm, first: Any, message: Tree) -> Any:
    """The server's state as a client has it: ``first`` with what the server has broadcast.

    Args:
        algorithm: Its ``broadcast`` picks leaves of the server's state.
        first: The server's state before the first round.
        message: What ``broadcast`` gave of a later one.
    """
    leaves, structure = jax.tree.flatten(first)
    numbered = jax.tree.unflatten(structure, range(len(leaves)))
    places = jax.tree.leaves(algorithm.broadcast(numbered))
    for place, leaf in zip(places, jax.tree.leaves(message), strict=True):
        leaves[place] = leaf
    return jax.tree.unflatten(structure, leaves)
