"""Records of rounds as arrays over clients and rounds."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ufm_jax.runs.history import RoundRecord


@dataclasses.dataclass(frozen=True)
class ClientCurves:
    """Values of K clients over R rounds; nan where a client was not in the cohort.

    Attributes:
        names: K client names.
        loss: float [K, R].
        steps: float [K, R], local steps.
        update_norm: float [K, R].
    """

    names: tuple[str, ...]
    loss: np.ndarray
    steps: np.ndarray
    update_norm: np.ndarray


def client_curves(history: Sequence[RoundRecord], names: Sequence[str]) -> ClientCurves:
    """Collects the clients' records.

    Args:
        history: R rounds.
        names: The K clients of the federation.

    Raises:
        ValueError: If the history holds a client that is not in ``names``.
    """
    index = {name: k for k, name in enumerate(names)}
    loss, steps, norm = np.full((3, len(names), len(history)), np.nan)
    for r, record in enumerate(history):
        for client in record.clients:
            if client.client not in index:
                raise ValueError(
                    f"round {record.round} of the history has the client {client.client!r}, which "
                    "the data lacks: give the report the data of the same run"
                )
            k = index[client.client]
            loss[k, r], steps[k, r] = client.loss, client.steps
            norm[k, r] = client.update_norm
    return ClientCurves(tuple(names), loss, steps, norm)
