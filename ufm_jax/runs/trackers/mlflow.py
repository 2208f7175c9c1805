"""MLflow: a run of an experiment in a store, which is a server or a database."""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from ufm_jax.runs.trackers.tracker import Tracked, read_id, write_id

MLFLOW = "mlflow"
_MARK = "round/images"
"""A scalar that every round has. It is written last: a round that has it is whole."""
_MOST_PARAMS, _MOST_METRICS = 100, 1000
"""Entries that MLflow takes in one request."""
_LONGEST_KEY = 250
_USUAL = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # The next round tries again.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""What the environment says where the user has not set it."""

_Entry = TypeVar("_Entry")


class MLflow:
    """Writes rounds through MLflow's client, which adds no tags of its own; see ``Tracker``."""

    def __init__(self, run: Tracked) -> None:
        """Begins the run, or goes on with it if the store still has it."""
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        # Where a database is the store, it would note the current folder.
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = "mlflow-artifacts:/"
        for variable, value in _USUAL.items():
            os.environ.setdefault(variable, value)
        from mlflow import MlflowClient

        self._client = MlflowClient(run.store)
        self._run = self._begun(run) or self._begin(run)
        self._client.update_run(self._run, status="RUNNING")
        held = self._client.get_metric_history(self._run, _MARK)
        self.next_round = max((metric.step for metric in held), default=-1) + 1

    def _begun(self, run: Tracked) -> str:
        """The run that was begun before; '' where the store has none."""
        from mlflow.exceptions import MlflowException

        name = read_id(run.workdir, MLFLOW)
        try:
            return name and self._client.get_run(name).info.run_id
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return ""
            raise

    def _begin(self, run: Tracked) -> str:
        from mlflow.entities import Param

        known = self._client.get_experiment_by_name(run.project)
        experiment = known.experiment_id if known else self._client.create_experiment(run.project)
        name: str = self._client.create_run(experiment, run_name=run.title).info.run_id
        params = [Param(key, str(value)) for key, value in run.settings.items()]
        for part in _parts(params, _MOST_PARAMS):
            self._client.log_batch(name, params=part)
        write_id(run.workdir, MLFLOW, name)
        return name

    def write(self, round_number: int, scalars: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(_key(tag), scalars[tag], now, round_number)
            for tag in sorted(scalars, key=_MARK.__eq__)
        ]
        for part in _parts(metrics, _MOST_METRICS):
            self._client.log_batch(self._run, metrics=part)
        self.next_round = round_number + 1

    def close(self, finished: bool) -> None:
        """See ``Tracker``."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")


def _parts(entries: Sequence[_Entry], most: int) -> Iterator[Sequence[_Entry]]:
    return (entries[first : first + most] for first in range(0, len(entries), most))


def _key(tag: str) -> str:
    """A tag in the characters that MLflow allows: names of classes may hold any."""
    return "/".join(re.sub(r"[^\w -]", "_", part) for part in tag.split("/"))[:_LONGEST_KEY]
