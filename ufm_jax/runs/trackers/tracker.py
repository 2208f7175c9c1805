"""What a tracker is, and how its record of a run is found again when the run goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from ufm_jax.files import read_json, write_json


class Tracker(Protocol):
    """Takes the scalars of rounds.

    Attributes:
        next_round: The first round that it does not hold.
    """

    next_round: int

    def write(self, round_number: int, scalars: Mapping[str, float]) -> None:
        """Takes a round; rounds come in order, from ``next_round`` on."""

    def close(self, finished: bool) -> None:
        """Ends the record; ``finished`` is false where an error ended the training."""


class Tracked(NamedTuple):
    """What a tracker outside the run's folder is told of a run.

    Attributes:
        title: Names the run.
        project: Names what the run belongs to: MLflow's experiment, W&B's project.
        store: MLflow: the address of the store.
        settings: Configuration values by full key.
        workdir: The run's folder.
    """

    title: str
    project: str
    store: str
    settings: Mapping[str, object]
    workdir: Path


def id_file(workdir: Path, name: str) -> Path:
    """Where a run's folder keeps the name of the run's record in a tracker."""
    return workdir / f"{name}_run.json"


def read_id(workdir: Path, name: str) -> str:
    """The name of the run's record in a tracker; '' where there is none yet.

    Raises:
        RunError: If the file is damaged.
    """
    file = id_file(workdir, name)
    if not file.exists():
        return ""
    return str(read_json(file, f"remove it, and {name} begins a new record", dict).get("id", ""))


def write_id(workdir: Path, name: str, record: str) -> None:
    """Keeps the name of the run's record in a tracker."""
    write_json(id_file(workdir, name), {"id": record})
