"""A run that is killed and started again ends with the bits of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ufm_jax.train.metrics import HISTORY_FILE, read_history

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 14
KILLS = 5


def _command(workdir, cache, *extra):
    """A small run: persistent moments, ragged clients, two devices, a checkpoint every round."""
    keys = {
        "federation.rounds": ROUNDS,
        "federation.cohort_size": 4,
        "federation.batch_size": 4,
        "data.num_sites": 6,
        "data.mean_size": 12,
        "data.working_size": 40,
        "data.cache_dir": cache,
        "model.image_size": 32,
        "model.decoder_width": 48,
        "model.decoder_depth": 1,
        "schedule.warmup_rounds": 2,
        "placement.cpu_devices": 2,
        "checkpoint.every_rounds": 1,
    }
    return [
        sys.executable,
        "-m",
        "ufm_jax.pretrain",
        f"--config={ROOT / 'configs' / 'quickstart.py'}",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in keys.items()),
        *extra,
    ]


def _start(workdir, folder, *extra):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            _command(workdir, folder / "decoded", *extra),
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env=environment,
        )


def _finish(workdir, folder):
    code = _start(workdir, folder).wait()
    assert code == 0, (folder / "log.txt").read_text()[-3000:]


def _rounds_written(workdir):
    path = workdir / HISTORY_FILE
    return path.read_text().count("\n") if path.exists() else 0


def _wait_until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


def _final_state(workdir):
    """Every array of the last checkpoint: parameters, server's and clients' optimiser states."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(workdir.absolute() / "checkpoints" / str(ROUNDS) / "default")
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(tree)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    _finish(folder / "run", folder)
    return folder


def _assert_same_run(one, other):
    expected, found = _final_state(one), _final_state(other)
    assert expected.keys() == found.keys()
    assert len(expected) > 100
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    histories = [
        [(r.round, r.loss, [(c.client, c.loss) for c in r.clients]) for r in read_history(run)]
        for run in (one, other)
    ]
    assert histories[0] == histories[1]
    assert [r for r, *_ in histories[0]] == list(range(ROUNDS))


def test_killed_at_random_moments_it_ends_with_the_same_bits(undisturbed, tmp_path):
    folder, run = undisturbed, tmp_path / "run"
    moments = random.Random(0)
    kills = 0
    while kills < KILLS:
        before = _rounds_written(run)
        process = _start(run, folder)
        # Somewhere in the next rounds: while training, saving, deleting or writing metrics.
        target = before + moments.choice([1, 1, 2])
        _wait_until(lambda target=target: _rounds_written(run) >= target, process)
        time.sleep(moments.uniform(0, 0.15))
        assert process.poll() is None, "it ended before it could be killed: add rounds"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    _finish(run, folder)
    _assert_same_run(undisturbed / "run", run)


def test_sigterm_saves_and_the_same_command_goes_on(undisturbed, tmp_path):
    folder, run = undisturbed, tmp_path / "run"
    process = _start(run, folder, "--config.checkpoint.every_rounds=1000")
    _wait_until(lambda: _rounds_written(run) >= 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    saved = [int(path.name) for path in (run / "checkpoints").iterdir()]
    assert len(saved) == 1
    assert saved[0] == len(read_history(run)) < ROUNDS
    _finish(run, folder)
    _assert_same_run(undisturbed / "run", run)


def test_another_configuration_is_refused_and_the_difference_named(undisturbed):
    folder = undisturbed
    process = subprocess.run(
        _command(folder / "run", folder / "decoded", "--config.model.mask_ratio=0.5"),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert process.returncode == 2
    assert "config.model.mask_ratio: 0.75 there, 0.5 here" in process.stderr
    assert "Traceback" not in process.stderr


def test_the_resolved_configuration_is_kept(undisturbed):
    facts = json.loads((undisturbed / "run" / "config.json").read_text())
    assert facts["config.federation.cohort_size"] == 4
    assert facts["config.name"] == "quickstart"


def test_the_run_ends_in_a_report_and_a_model(undisturbed):
    run = undisturbed / "run"
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "model").is_dir()
    assert list(run.glob("tensorboard/events*"))
