"""MLflow's own server: rounds are there once after it was killed, and after the run was."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.runs.records import CLIENT, record
from tests.runs.trackers.private import CLIENTS, as_user, assert_tells_nobody, private_config
from tests.train.small_runs import QUICKSTART, losses_of, rounds_written
from ufm_jax.runs.history import MetricWriter
from ufm_jax.runs.trackers.tracker import read_id
from ufm_jax.runs.tracking import trackers

mlflow = pytest.importorskip("mlflow", reason="pip install mlflow")
pytest.importorskip("flask", reason="the server needs all of mlflow: pip install mlflow")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
ENDS = 180
"""Seconds after which waiting has failed."""


class Server:
    """A server on a port and a database of its own; it may be killed and started again."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.address = folder, f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--workers=1", f"--port={self.port}"]
        store = f"--backend-store-uri=sqlite:///{self.folder}/store.db"
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.txt").open("a") as log:
            self.process = subprocess.Popen(
                [*command, store],
                stdout=log, stderr=log, cwd=self.folder, env=environment, start_new_session=True,
            )  # fmt: skip
        wait_for(self.answers)

    def answers(self):
        try:
            return urllib.request.urlopen(f"{self.address}/health", timeout=2).status == 200
        except OSError:
            return False

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def steps(self, workdir):
        """The rounds of a run's record, as often as they are there."""
        history = mlflow.MlflowClient(self.address).get_metric_history
        return sorted(metric.step for metric in history(read_id(workdir, "mlflow"), "round/loss"))


def wait_for(condition):
    end = time.monotonic() + ENDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def test_a_server_that_was_killed_amid_a_run_has_all_rounds_once(
    tmp_path, server, monkeypatch, caplog
):
    as_user(monkeypatch)
    workdir = tmp_path / "run"
    config = private_config(tmp_path, "mlflow", server.address)
    clients = [dataclasses.replace(CLIENT, client=name) for name in CLIENTS]
    with (
        MetricWriter(workdir, 0) as writer,
        trackers(config, workdir, 0, CLIENTS) as (take,),
    ):

        def train(number):
            writer.write(record(number, clients=clients))
            take(record(number, clients=clients))

        train(0)
        wait_for(lambda: read_id(workdir, "mlflow") and server.steps(workdir) == [0])
        server.kill()
        for number in range(1, 4):
            train(number)
        wait_for(lambda: "mlflow is away" in caplog.text)
        server.start()
        train(4)
    assert server.steps(workdir) == [0, 1, 2, 3, 4]
    assert caplog.text.count("is away") == 1
    run = mlflow.MlflowClient(server.address).get_run(read_id(workdir, "mlflow"))
    assert run.info.status == "FINISHED"
    assert_tells_nobody(str(run.to_dictionary()), tmp_path)


def test_a_server_that_never_answers_does_not_hold_up_the_end(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = private_config(tmp_path, "mlflow", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with trackers(config, tmp_path, 0, CLIENTS) as (take,):
            take(record(0))
    assert caplog.text.count("is away") == 1
    assert "has not answered" not in caplog.text


def test_a_run_that_was_killed_goes_on_in_the_same_record(tmp_path, server):
    workdir, rounds = tmp_path / "run", 12
    keys = QUICKSTART | {
        "data.cache_dir": tmp_path / "decoded",
        "federation.rounds": rounds,
        "checkpoint.every_rounds": 3,
        "tracking": "tensorboard,mlflow",
        "tracking_store": server.address,
    }
    command = [
        *(sys.executable, "-m", "ufm_jax.pretrain", f"--workdir={workdir}"),
        f"--config={ROOT / 'configs/quickstart.py'}",
        *(f"--config.{key}={value}" for key, value in keys.items()),
    ]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    wait_for(lambda: rounds_written(workdir) >= 5 and len(server.steps(workdir)) >= 5)
    process.kill()
    process.wait()
    begun = read_id(workdir, "mlflow")
    assert 5 <= len(server.steps(workdir)) < rounds
    assert subprocess.run(command, cwd=ROOT, env=environment).returncode == 0
    assert read_id(workdir, "mlflow") == begun
    assert server.steps(workdir) == list(range(rounds))
    client = mlflow.MlflowClient(server.address)
    told = {m.step: m.value for m in client.get_metric_history(begun, "round/loss")}
    assert told == {number: loss for number, loss, *_ in losses_of(workdir)}
