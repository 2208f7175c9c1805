"""Several processes train as one: same numbers, stopped together, and none left waiting."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.train.small_runs import (
    QUICKSTART,
    assert_same_state,
    losses_of,
    rounds_written,
    state_of,
)
from ufm_jax.door import LOST
from ufm_jax.runs.checkpoint import load_params

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 9
KEYS = QUICKSTART | {
    "federation.rounds": ROUNDS,
    "federation.local_epochs": 1,
    "client_optimizer.name": "sgd",
    "augment.degrade": 0.0,
    "augment.scan_conversion": 0.0,
    "placement.data_home": "host",
    "cluster.heartbeat_seconds": 15,
    "cluster.shutdown_seconds": 30,
    "cluster.start_seconds": 60,
}
ENDS = 60
"""Seconds after which a process that waits in vain is a failure; none of them is expected."""


class Run:
    """The processes of one start of a run; process k logs to ``log<k>.txt``."""

    def __init__(self, workdir, folder, processes=2, devices=2, each=None, **keys):
        """Starts them with ``devices`` in all, and with some keys of ``each`` of them."""
        keys = KEYS | {"data.cache_dir": folder / "decoded"} | keys
        keys["placement.cpu_devices"] = devices // processes
        environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
        if processes > 1:
            keys["cluster.distributed"] = True
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{_free_port()}",
                "JAX_NUM_PROCESSES": str(processes),
            }
        workdir.parent.mkdir(parents=True, exist_ok=True)
        self.workdir, self.logs, self.processes = workdir, [], []
        for index in range(processes):
            own = keys | (each or {}).get(index, {})
            self.logs.append(workdir.parent / f"log{index}.txt")
            with self.logs[-1].open("w") as log:
                self.processes.append(
                    subprocess.Popen(
                        [
                            sys.executable,
                            "-m",
                            "ufm_jax.pretrain",
                            f"--config={ROOT / 'configs' / 'quickstart.py'}",
                            f"--workdir={workdir}",
                            *(f"--config.{key}={value}" for key, value in own.items()),
                        ],
                        stdout=log,
                        stderr=log,
                        cwd=ROOT,
                        env=environment | {"JAX_PROCESS_ID": str(index)},
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self, seconds=150):
        """Exit statuses of all."""
        end = time.monotonic() + seconds
        return [p.wait(max(1, end - time.monotonic())) for p in self.processes]

    def until(self, condition, seconds=120):
        """Returns when a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log(0)
            assert all(p.poll() is None for p in self.processes), self.log(0) + self.log(1)
            time.sleep(0.01)

    def last_words(self, pattern, seconds=10):
        """What process 0 said; where it was aborted, its witness says it a moment later."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.log(0))) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def log(self, index):
        return self.logs[index].read_text()


def _free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def _saved(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())


def _assert_same_bits(one, other, rounds):
    assert_same_state(one, other, rounds)
    assert losses_of(one)[:rounds] == losses_of(other)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with two devices, from the start to the end; every checkpoint is kept."""
    folder = tmp_path_factory.mktemp("alone")
    with Run(folder / "run", folder, processes=1, **{"checkpoint.keep": ROUNDS}) as run:
        assert run.wait() == [0], run.log(0)
    return run


def test_killed_and_stopped_two_processes_train_what_one_does(alone, tmp_path):
    """The sum of two devices' numbers has one rounding: equal means equal to the bit."""
    folder, workdir = alone.workdir.parent, tmp_path / "run"
    # One is killed: the other says so, says where it goes on, and ends.
    with Run(workdir, folder) as run:
        # A checkpoint is complete some rounds after its own.
        run.until(lambda: rounds_written(workdir) >= 2 and _saved(workdir))
        run.processes[1].kill()
        begin = time.monotonic()
        assert run.processes[0].wait(ENDS) in (LOST, -signal.SIGABRT), run.log(0)
        assert time.monotonic() - begin < 30
    words = run.last_words(
        r"error: another process of this run ended.*; start the same command again on all hosts: "
        r"it goes on after round (\d+)"
    )
    assert words, run.log(0)
    resumed = int(words[1])
    assert 1 <= resumed < ROUNDS

    # SIGTERM to one of them: both save the same round, and end.
    with Run(workdir, folder, **{"checkpoint.every_rounds": 1000}) as run:
        # What the killed processes wrote of later rounds goes when these begin.
        run.until(lambda: "resumed after" in run.log(0) and rounds_written(workdir) > resumed)
        run.processes[1].send_signal(signal.SIGTERM)
        assert run.wait(ENDS) == [128 + signal.SIGTERM] * 2, run.log(0) + run.log(1)
    assert f"resumed after {resumed} of {ROUNDS} rounds" in run.log(0)
    stopped = max(_saved(workdir))
    assert resumed < stopped == rounds_written(workdir) < ROUNDS
    assert f"stopped with {stopped} rounds done; the same command goes on from there" in run.log(0)
    _assert_same_bits(alone.workdir, workdir, stopped)

    assert "round" not in run.log(1)  # only the first process speaks ...
    assert not list(workdir.glob(".shared*"))
    params = load_params(workdir / "model")  # ... and what all have written can be read by one
    for path, leaf in jax.tree.leaves_with_path(params):
        name = f"['server']['params']{jax.tree_util.keystr(path)}"
        np.testing.assert_array_equal(leaf, state_of(workdir, stopped)[name])


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_bits_of_an_undisturbed_one(tmp_path):
    with Run(tmp_path / "whole" / "run", tmp_path) as run:
        assert run.wait() == [0, 0], run.log(0) + run.log(1)
    workdir = tmp_path / "parts" / "run"
    for victim in (1, 0):
        before = rounds_written(workdir)
        with Run(workdir, tmp_path) as run:
            run.until(lambda run=run, before=before: rounds_written(workdir) > before)
            run.processes[victim].kill()
            assert run.processes[1 - victim].wait(ENDS) in (LOST, -signal.SIGABRT)
        assert "; start the same command again on all hosts" in run.log(1 - victim)
    with Run(workdir, tmp_path) as run:
        assert run.wait() == [0, 0], run.log(0) + run.log(1)
    _assert_same_bits(tmp_path / "whole" / "run", workdir, ROUNDS)


@pytest.mark.slow
@pytest.mark.parametrize("home", ["device", "stream"])
@pytest.mark.parametrize("client_state", ["persist", "average"])
def test_two_processes_of_two_devices_train_what_one_of_four_does(tmp_path, home, client_state):
    keys = {"placement.data_home": home, "federation.client_state": client_state}
    with Run(tmp_path / "one" / "run", tmp_path, processes=1, devices=4, **keys) as one:
        assert one.wait() == [0], one.log(0)
    with Run(tmp_path / "two" / "run", tmp_path, devices=4, **keys) as two:
        assert two.wait() == [0, 0], two.log(0) + two.log(1)
    expected, found = state_of(one.workdir, ROUNDS), state_of(two.workdir, ROUNDS)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6 * scale, err_msg=name)


def test_other_data_or_another_folder_in_one_process_stops_all(tmp_path):
    """Told in every process, by the time the first has read its data."""
    with Run(tmp_path / "run", tmp_path, each={1: {"seed": 1}}) as run:
        assert run.wait() == [2, 2], run.log(0) + run.log(1)
    for index in range(2):
        assert "error: process 1 has another configuration than process 0" in run.log(index)


def test_without_a_cluster_the_keys_are_named(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "KUBE"))}
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "ufm_jax.pretrain",
            f"--config={ROOT / 'configs' / 'quickstart.py'}",
            f"--workdir={tmp_path}",
            "--config.cluster.distributed",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert process.returncode == 2
    [line] = process.stderr.splitlines()
    assert line.startswith("error: config.cluster.distributed=True: ")
    assert "config.cluster.coordinator, num_processes and process_id" in line
