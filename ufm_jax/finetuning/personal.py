"""The parameters that predict a client's images, if clients have parameters of their own."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.engine import FederationState
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.paths import join_by_path, split_by_path
from ufm_jax.prediction.split import ParamsOf

_log = logging.getLogger(__name__)

_PREDICTED_WITHOUT_OWN = (
    "its images are predicted with the mean of the others' own parameters, or the server's where "
    "it has them"
)


def absent_clients(data: LabelledData, names: tuple[str, ...]) -> tuple[str, ...]:
    """Clients that have images to choose by or to test on, but not to train on."""
    return tuple(
        client
        for k, client in enumerate(data.clients)
        if client not in names and any(len(data.rows(split, k)) for split in ("val", "test"))
    )


def check_absent(config: FinetuneConfig, absent: tuple[str, ...]) -> None:
    """Warns of clients whose images are predicted with parameters that are not their own.

    Raises:
        ConfigError: If no parameters are shared, so that nothing can predict their images.
    """
    if absent and config.federation.training == "local":
        raise ConfigError(
            f"{', '.join(absent)}: has images to be evaluated on and none to train on, and so no "
            "model of its own: leave these images out, split otherwise, or set "
            "config.federation.training='federated'"
        )
    for client in absent:
        _log.warning("%s: trains nothing; %s", client, _PREDICTED_WITHOUT_OWN)


@dataclass(frozen=True)
class OwnParameters:
    """The leaves that each client of a federation trains for itself.

    Attributes:
        config: Says which leaves these are.
        federation: The federation that trains.
        names: The K clients that train.
        began: These leaves before training, by path; empty if all are shared.
    """

    config: FinetuneConfig
    federation: Federation
    names: tuple[str, ...]
    began: Mapping[str, np.ndarray]

    @classmethod
    def begin(
        cls,
        config: FinetuneConfig,
        federation: Federation,
        names: tuple[str, ...],
        params: Params,
    ) -> "OwnParameters":
        """Remembers the leaves that ``params`` begin with."""
        # Copies: the first round takes the state's memory.
        leaves = {path: np.array(leaf) for path, leaf in _own(config, params).items()}
        return cls(config, federation, names, leaves)

    def trained(self, state: FederationState) -> dict[str, int]:
        """The numbers of the clients whose own leaves have moved, or of all if no leaf has.

        The leaves of a client that no cohort asked, or whose every update was refused, are as they
        began.
        """
        if not self.began:
            return {}
        numbers = {name: k for k, name in enumerate(self.names)}

        def moved(k: int) -> bool:
            own = _own(self.config, self.federation.client_params(state, k))
            return any(not np.array_equal(own[path], leaf) for path, leaf in self.began.items())

        return {name: k for name, k in numbers.items() if moved(k)} or numbers

    def params_of(self, state: FederationState, trained: Mapping[str, int]) -> ParamsOf:
        """``client -> its own parameters`` if it is in ``trained``, else those for others."""
        federation, patterns = self.federation, self.config.federation.personal_paths

        @cache
        def for_others() -> Params:
            """The server's parameters, with the mean of the leaves that it lacks."""
            if not patterns:
                return state.server.params
            owned = [
                split_by_path(federation.client_params(state, k), patterns)[1]
                for k in sorted(trained.values())
            ]
            mean = {path: jnp.stack([one[path] for one in owned]).mean(0) for path in owned[0]}
            return join_by_path(state.server.params, mean)

        return lambda client: (
            federation.client_params(state, trained[client]) if client in trained else for_others()
        )

    def stacked(self, state: FederationState, clients: tuple[str, ...]) -> dict[str, np.ndarray]:
        """The own leaves of clients by path, [clients, ...]; warns of untrained ones."""
        trained = self.trained(state)
        for client in self.names if self.began else ():
            if client not in trained:
                _log.warning(
                    "%s: its own parameters are as they began (was it asked in a round, and not "
                    "refused?); %s",
                    *(client, _PREDICTED_WITHOUT_OWN),
                )
        params_of = self.params_of(state, trained)
        own = [_own(self.config, params_of(client)) for client in clients] if self.began else []
        return {path: np.stack([leaves[path] for leaves in own]) for path in self.began}


def _own(config: FinetuneConfig, params: Params) -> dict[str, jax.Array]:
    """The leaves that each client trains for itself, by path; with Ditto all of them."""
    ditto = config.federation.algorithm.name == "ditto"
    patterns = (".*",) if ditto else config.federation.personal_paths
    return split_by_path(params, patterns)[1] if patterns else {}
