"""From the configuration of participation to who takes part."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ufm_jax.config.federation import ParticipationConfig
from ufm_jax.config.schema import as_config_errors
from ufm_jax.data.cells import name_of, text_of
from ufm_jax.data.csv_files import read_csv
from ufm_jax.errors import ConfigError, DataError
from ufm_jax.fed.participation import Clock, Participation, drawn_clock
from ufm_jax.files import user_path


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


def check_trace(trace: str) -> None:
    """Refuses a trace that cannot be opened; '' names none.

    Raises:
        ConfigError: Naming key and file.
    """
    if not trace:
        return
    try:
        user_path(trace).open("rb").close()
    except OSError as error:
        raise ConfigError(
            f"config.federation.participation.trace={trace!r}: it cannot be read ({error.strerror})"
            "; name a CSV of who can be asked, or ''"
        ) from None


def read_trace(path: Path, names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Who can be asked, bool [T, K], from a CSV with a column a client and a row a round.

    Raises:
        ConfigError: Naming the file, and the row and the client.
    """
    key = f"config.federation.participation.trace={str(path)!r}"
    try:
        header, rows = read_csv(path, ())
    except DataError as error:
        raise ConfigError(f"{key}: {error}") from None
    columns = [name_of(name) for name in names]
    if missing := [name for name in columns if name not in header]:
        raise ConfigError(f"{key}: it has no column for client {missing[0]!r}; it has {header}")
    if not rows:
        raise ConfigError(f"{key}: no rounds")
    cells = [[text_of(row.cells[column]) for column in columns] for row in rows]
    for row, values in zip(rows, cells, strict=True):
        for column, value in zip(columns, values, strict=True):
            if value not in ("0", "1"):
                raise ConfigError(
                    f"{key}: {row.place}, column {column!r}: {value!r} is neither 0 nor 1"
                )
    return np.array(cells) == "1"
