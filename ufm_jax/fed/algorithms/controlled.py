"""Methods that correct local gradients by a vector that each client keeps: SCAFFOLD, FedDyn."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from ufm_jax.fed.algorithm import Algorithm, Params, Tree


class Controlled(NamedTuple):
    """A state of the algorithm beneath, and the server's or the client's vector."""

    inner: Any
    control: Params

    @property
    def params(self) -> Params:
        """The parameters: global on the server, the client's own while it trains."""
        return self.inner.params


def controlled(
    base: Algorithm,
    start: Callable[..., Any],
    step: Callable[..., Any],
    end: Callable[..., Any],
    update_server: Callable[..., Any],
    broadcast: Callable[[Controlled], Tree],
) -> Algorithm:
    """Builds an algorithm on ``base`` whose server and clients keep a vector each, from zero."""

    def init_server(params: Params) -> Controlled:
        return Controlled(base.init_server(params), optax.tree.zeros_like(params))

    def init_client(params: Params) -> Controlled:
        return Controlled(base.init_client(params), optax.tree.zeros_like(params))

    def client_params(server: Controlled, client: Controlled) -> Params:
        return base.client_params(server.inner, client.inner)

    return Algorithm(
        init_server,
        init_client,
        start,
        step,
        end,
        update_server,
        client_params,
        broadcast,
        stateful=True,
    )
