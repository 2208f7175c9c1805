"""From the configuration of participation to who takes part."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ufm_jax.errors import ConfigError
from ufm_jax.fed.participation import Clock, Participation, drawn_clock
from ufm_jax.files import user_path
from ufm_jax.train.methods_config import ParticipationConfig
from ufm_jax.train.schema import as_config_errors


def make_participation(config: ParticipationConfig, names: tuple[str, ...]) -> Participation:
    """Who is asked.

    Args:
        config: Sampling and trace.
        names: The clients' names, in order.

    Raises:
        ConfigError: If the trace cannot be read, or does not fit the sampling or the clients.
    """
    available = read_trace(user_path(config.trace), names) if config.trace else None
    with as_config_errors():
        return Participation(config.sampling, available)


def make_clock(config: ParticipationConfig, num_clients: int, seed: int) -> Clock | None:
    """How long clients take; None without a clock."""
    if not config.step_seconds:
        return None
    return drawn_clock(
        num_clients,
        step_seconds=config.step_seconds,
        spread=config.spread,
        latency=config.latency,
        jitter=config.jitter,
        dropout=config.dropout,
        deadline=config.deadline or np.inf,
        seed=seed,
    )


def read_trace(path: Path, names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Who can be asked, bool [T, K], from a CSV with a column a client and a row a round.

    Raises:
        ConfigError: Naming the file, and the line or the client.
    """
    key = f"config.federation.participation.trace={str(path)!r}"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: it cannot be read as a CSV with a header ({error})") from None
    missing = [name for name in names if name not in header]
    if missing or not lines:
        raise ConfigError(
            f"{key}: it has no column for client {missing[0]!r}" if missing else f"{key}: no rounds"
        )
    columns = [header.index(name) for name in names]
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header) or not set(line) <= {"0", "1"}:
            raise ConfigError(
                f"{key}, line {number}: give 0 or 1 for each of {len(header)} columns"
            )
    return np.array([[line[c] == "1" for c in columns] for line in lines])
