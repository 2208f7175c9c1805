"""Trackers of a run: what gets the scalars of each round beside metrics.jsonl.

A tracker outside the run's folder gets the scalars, and those keys of the configuration that take
numbers, switches or named choices. Free text stays, since it may be a path or a name, and a client
is called by its number in data.json.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from ufm_jax.config.schema import without_text
from ufm_jax.config.training import TrainingConfig
from ufm_jax.errors import ConfigError
from ufm_jax.runs.history import RoundRecord, read_history
from ufm_jax.runs.trackers.background import Background
from ufm_jax.runs.trackers.mlflow import MLFLOW, MLflow
from ufm_jax.runs.trackers.tensorboard import TensorBoard
from ufm_jax.runs.trackers.tracker import Tracked, Tracker, id_file
from ufm_jax.runs.trackers.wandb import WANDB, WandB

_OUTSIDE: dict[str, Callable[[Tracked], Tracker]] = {MLFLOW: MLflow, WANDB: WandB}
_LOCAL_STORE = "mlflow.db"
_CLIENT_SCALARS = ("loss", "examples", "steps", "update_norm")
_ROUND_SCALARS = tuple(
    field.name
    for field in dataclasses.fields(RoundRecord)
    if field.type in (int, float) and field.name != "round"
)


def check_trackers(config: TrainingConfig, workdir: Path) -> None:
    """Checks what a run's trackers need, without asking them.

    Raises:
        ConfigError: If a package is not installed, or the store of MLflow is not an address, or
            one with a password.
    """
    needed: list[str] = [name for name in _OUTSIDE if name in config.tracking]
    store = _store(config, workdir)
    if "@" in config.tracking_store:
        raise ConfigError(
            "config.tracking_store holds a user or a password, and the report shows every key: "
            "set MLFLOW_TRACKING_URI in its place"
        )
    if MLFLOW in needed and "://" not in store:
        raise ConfigError(
            f"config.tracking_store={store!r}: give an address, such as http://host:5000 or "
            "sqlite:///folder/mlflow.db"
        )
    if MLFLOW in needed and not store.startswith("http"):
        needed += ["sqlalchemy", "alembic"]
    if store.startswith("sqlite:///") and Path(store.removeprefix("sqlite:///")).is_dir():
        raise ConfigError(f"config.tracking_store={store!r} is a folder: name a file in it")
    if WANDB in needed and set(config.tracking_project) & set("/\\#?%:"):
        raise ConfigError(
            f"config.tracking_project={config.tracking_project!r}: W&B takes none of / \\ # ? % :"
        )
    for package in needed:
        found = find_spec(package)
        if found is None or found.origin is None:  # A folder of that name, such as W&B makes.
            raise ConfigError(
                f"config.tracking={config.tracking}: {package} is not installed: "
                "pip install 'ufm-jax[tracking]'"
            )


@contextmanager
def trackers(
    config: TrainingConfig, workdir: Path, done: int, names: Sequence[str]
) -> Iterator[list[Callable[[RoundRecord], None]]]:
    """What takes each record of a run for its trackers.

    Args:
        config: Names the trackers.
        workdir: The run's folder, with the history of the rounds that are done.
        done: Rounds that are done; with 0 the record of a run begins anew.
        names: The clients' names.
    """
    opened: list[Background | TensorBoard] = []
    takes: list[Callable[[RoundRecord], None]] = []
    if "tensorboard" in config.tracking:
        board = TensorBoard(workdir, done)
        opened.append(board)
        takes.append(lambda record: board.write(record.round, scalars(record)))
    numbers = {name: str(number) for number, name in enumerate(names)}
    for name in (name for name in _OUTSIDE if name in config.tracking):
        if not done:
            id_file(workdir, name).unlink(missing_ok=True)
        outside = Background(
            name,
            partial(_OUTSIDE[name], _told(config, workdir)),
            partial(scalars, called=numbers.__getitem__),
        )
        for record in read_history(workdir):
            outside.write(record)
        opened.append(outside)
        takes.append(outside.write)
    finished = False
    try:
        yield takes
        finished = True
    finally:
        for tracker in opened:
            tracker.close(finished)


def scalars(record: RoundRecord, called: Callable[[str], str] = str) -> dict[str, float]:
    """The numbers of a round by tag, but those that are not finite: a gap in a curve says more.

    Args:
        record: The round's record.
        called: What a client is called in tags, by its name.
    """
    found = {f"round/{name}": float(getattr(record, name)) for name in _ROUND_SCALARS}
    found["round/rejected"] = float(len(record.rejected))
    for client in record.clients:
        for name in _CLIENT_SCALARS:
            found[f"client/{called(client.client)}/{name}"] = float(getattr(client, name))
    for name, loss in record.held_out.items():
        found[f"client/{called(name)}/held_out_loss"] = loss
    for task, figures in record.probe.items():
        for name, value in figures.items():
            found[f"probe/{task}/{name}"] = value
    return {tag: value for tag, value in found.items() if math.isfinite(value)}


def _told(config: TrainingConfig, workdir: Path) -> Tracked:
    return Tracked(
        title=config.name,
        project=config.tracking_project,
        store=_store(config, workdir),
        settings=without_text(config),
        workdir=workdir,
    )


def _store(config: TrainingConfig, workdir: Path) -> str:
    """MLflow's store: as configured, or as the environment says, or beside the run's folder."""
    beside = workdir.absolute().parent / _LOCAL_STORE
    return config.tracking_store or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{beside}"
