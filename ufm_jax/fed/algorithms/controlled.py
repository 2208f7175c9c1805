"""States of methods that correct local gradients by a vector a client keeps: SCAFFOLD, FedDyn."""

from typing import Any, NamedTuple

from ufm_jax.fed.algorithm import Params, Tree


class Server(NamedTuple):
    """The state of the algorithm beneath, and the server's own vector."""

    inner: Any
    control: Params

    @property
    def params(self) -> Params:
        """The global parameters."""
        return self.inner.params


class Client(NamedTuple):
    """What the algorithm beneath keeps, and the client's vector."""

    inner: Tree
    control: Params
