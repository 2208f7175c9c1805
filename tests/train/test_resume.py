"""A run that is killed and started again ends with the bits of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.train.small_runs import QUICKSTART, assert_same_state, losses_of, rounds_written
from ufm_jax.cluster.witness import UNFINISHED
from ufm_jax.runs.history import read_history

ROOT = Path(__file__).resolve().parents[2]


class Kind(NamedTuple):
    """A kind of run: its command, its keys, its rounds, and how often it is killed."""

    command: str
    keys: dict
    rounds: int
    kills: int


CHUNKS = {
    "placement.data_home": "host",
    "placement.chunk_steps": 1,
    "checkpoint.every_rounds": 5,
    "checkpoint.every_seconds": 1e-3,
}
"""Keys of a run that is cut after every step, and saved after most."""

KINDS = {
    "pretrain": Kind("pretrain:quickstart", QUICKSTART, 14, 5),
    "scaffold": Kind(
        "pretrain:quickstart",
        QUICKSTART
        | {
            "federation.algorithm.name": "scaffold",
            "federation.compression.kind": "top_k",
            "federation.compression.fraction": 0.1,
            "client_optimizer.name": "sgd",
        },
        30,
        10,
    ),
    "stream": Kind(
        "pretrain:quickstart",
        QUICKSTART
        | {
            "placement.data_home": "stream",
            "federation.batch_sampling": "poisson",
            "federation.privacy.level": "example",
            "federation.privacy.microbatch": 1,
        },
        30,
        10,
    ),
    "chunks": Kind("pretrain:quickstart", QUICKSTART | CHUNKS, 30, 10),
    "finetune": Kind(
        "finetune:finetune",
        {
            "data.working_size": 40,
            "model.size": "xs",
            "model.image_size": 32,
            "model.patch_size": 8,
            "federation.training": "federated",
            "federation.personal": "('head/.*',)",
            "data.partition": "iid",
            "data.num_clients": 3,
            "federation.batch_size": 4,
            "schedule.warmup_rounds": 1,
            "placement.devices": 1,
            "evaluation.replicates": 10,
            "checkpoint.every_rounds": 1,
        },
        30,
        10,
    ),
}
CHILD = """
import os, resource, secrets, time
if limit := int(os.environ["LARGEST_FILE"]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
now, drawn = time.time, secrets.token_bytes
time.time = lambda: now() - float(os.environ["CLOCK_BACK"])
# The key of the noise, the only thing that two equal runs draw otherwise.
secrets.token_bytes = lambda n=None: b"12345678" if n == 8 else drawn(n)
"""
"""What a child does first: its files are bounded, its clock is set back, its secret is shared."""


class Run:
    """A run in a folder, whose data and compiled programs lie beside it."""

    def __init__(self, kind: Kind, place: Path, workdir: Path) -> None:
        self.kind, self.place, self.workdir = kind, place, workdir
        self.days_back = 0

    def command(self, *extra):
        module, config = self.kind.command.split(":")
        keys = self.kind.keys | {
            "data.cache_dir": self.place / "decoded",
            "federation.rounds": self.kind.rounds,
        }
        if module == "finetune":
            keys["data.root"] = self.place / "images"
        return [
            *(sys.executable, "-m", f"ufm_jax.{module}"),
            f"--config={ROOT / 'configs' / config}.py",
            f"--workdir={self.workdir}",
            *(f"--config.{key}={value}" for key, value in keys.items()),
            *extra,
        ]

    def start(self, *extra, largest_file=0):
        environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
        (self.place / "child").mkdir(exist_ok=True)
        (self.place / "child" / "sitecustomize.py").write_text(CHILD)
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(self.place / "compiled"),
            "CLOCK_BACK": str(86400 * self.days_back),
            "LARGEST_FILE": str(largest_file),
            "PYTHONPATH": f"{self.place / 'child'}{os.pathsep}{ROOT}",
        }
        with (self.place / ("limited.txt" if largest_file else "log.txt")).open("a") as log:
            return subprocess.Popen(
                self.command(*extra), stdout=log, stderr=log, cwd=ROOT, env=environment
            )

    def finish(self):
        code = self.start().wait()
        assert code == 0, (self.place / "log.txt").read_text()[-3000:]

    def wait_for_rounds(self, count, process, seconds=120):
        end = time.monotonic() + seconds
        while rounds_written(self.workdir) < count and process.poll() is None:
            assert time.monotonic() < end, (self.place / "log.txt").read_text()[-3000:]
            time.sleep(0.002)

    def seconds_of_a_round(self):
        return float(np.median([record.seconds for record in read_history(self.workdir)[1:]]))

    def spent(self):
        """The privacy ledger of the last checkpoint."""
        path = self.workdir / "checkpoints" / str(self.kind.rounds) / "_CHECKPOINT_METADATA"
        return json.loads(path.read_text())["custom_metadata"]["ledger"]

    def assert_same_as(self, other):
        assert_same_state(other.workdir, self.workdir, self.kind.rounds)
        assert self.spent() == other.spent()
        assert bool(self.spent()) == ("federation.privacy.level" in self.kind.keys)
        losses = losses_of(self.workdir)
        assert losses == losses_of(other.workdir)
        assert [r for r, *_ in losses] == list(range(self.kind.rounds))
        for name in ("predictions_test.csv", "evaluation.json", "privacy.json"):
            if (other.workdir / name).exists():
                assert (self.workdir / name).read_bytes() == (other.workdir / name).read_bytes()


def write_images(folder):
    """60 pictures of noise in two classes, one darker."""
    rng = np.random.default_rng(0)
    for number in range(60):
        path = folder / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        low = 60 * (number % 2)
        Image.fromarray(rng.integers(low, low + 190, (32, 32)).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def undisturbed_of(tmp_path_factory):
    """Kind -> a run that nobody kills, made once."""
    made = {}

    def make(name):
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            write_images(place / "images")
            made[name] = Run(KINDS[name], place, place / "run")
            made[name].finish()
        return made[name]

    return make


@pytest.fixture(scope="module")
def undisturbed(undisturbed_of):
    return undisturbed_of("pretrain")


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_killed_at_random_moments_it_ends_with_the_same_bits(undisturbed_of, tmp_path, name):
    """At each start the clock is a day behind the start before, so that its files are newer."""
    whole = undisturbed_of(name)
    run = Run(whole.kind, whole.place, tmp_path / "run")
    moments, length = random.Random(0), whole.seconds_of_a_round()
    reached = []
    for _ in range(whole.kind.kills):
        process = run.start()
        # Somewhere in the next rounds: while training, saving, deleting or writing metrics.
        run.wait_for_rounds(rounds_written(run.workdir) + 1, process)
        time.sleep(moments.uniform(0, 2 * length))
        assert process.poll() is None, "it ended before it could be killed: add rounds"
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached.append(rounds_written(run.workdir))
        run.days_back += 1
    run.finish()
    run.assert_same_as(whole)
    print(f"{name}: {len(reached)} kills, after rounds {reached}, a round of {length:.3f} s")


@pytest.mark.slow
@pytest.mark.parametrize("largest", [1 << 15, 1 << 18])
def test_a_checkpoint_that_finds_no_room_ends_the_run_and_it_goes_on_later(
    undisturbed, tmp_path, largest
):
    run = Run(undisturbed.kind, undisturbed.place, tmp_path / "run")
    process = run.start()
    run.wait_for_rounds(3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process = run.start(largest_file=largest)
    assert process.wait(timeout=300) > 0, "it ends by itself, in an error"
    run.finish()
    run.assert_same_as(undisturbed)


def test_sigterm_saves_and_the_same_command_goes_on(undisturbed, tmp_path):
    run = Run(undisturbed.kind, undisturbed.place, tmp_path / "run")
    process = run.start("--config.checkpoint.every_rounds=1000")
    run.wait_for_rounds(2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    saved = [int(path.name) for path in (run.workdir / "checkpoints").iterdir()]
    assert len(saved) == 1
    assert saved[0] == rounds_written(run.workdir) < run.kind.rounds
    run.finish()
    run.assert_same_as(undisturbed)


def test_stopped_and_killed_inside_a_round_it_ends_with_the_bits_of_whole_rounds(
    undisturbed, tmp_path
):
    kind = undisturbed.kind._replace(keys=undisturbed.kind.keys | CHUNKS)
    run, log = Run(kind, undisturbed.place, tmp_path / "run"), undisturbed.place / "log.txt"
    for number in (signal.SIGTERM, signal.SIGKILL):
        begun = rounds_written(run.workdir)
        process = run.start()
        run.wait_for_rounds(begun + 1, process)
        while not inside_a_round(run.workdir):
            assert process.poll() is None, log.read_text()[-3000:]
        process.send_signal(number)
        process.wait()
        assert 0 < rounds_written(run.workdir) < kind.rounds - 2
    seldom = (f"--config.checkpoint.every_{what}=1000" for what in ("rounds", "seconds"))
    assert run.start(*seldom).wait() == 0, log.read_text()[-3000:]
    assert " at step " in log.read_text()
    assert_same_state(undisturbed.workdir, run.workdir, kind.rounds)
    assert losses_of(run.workdir) == losses_of(undisturbed.workdir)
    assert rounds_written(run.workdir) == kind.rounds
    assert not (run.workdir / UNFINISHED).exists()


def inside_a_round(workdir):
    """Whether the newest checkpoint is of a round that has begun."""
    unfinished = [int(p.name) for p in (workdir / UNFINISHED).glob("[0-9]*") if p.name.isdecimal()]
    whole = [int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*") if p.name.isdecimal()]
    return max(unfinished, default=0) // 10**9 >= max(whole, default=0) and bool(unfinished)


def test_another_configuration_is_refused_and_the_difference_named(undisturbed):
    process = subprocess.run(
        undisturbed.command("--config.model.mask_ratio=0.5"),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert process.returncode == 2
    assert "config.model.mask_ratio: 0.6 there, 0.5 here" in process.stderr
    assert "Traceback" not in process.stderr


def test_the_resolved_configuration_is_kept(undisturbed):
    facts = json.loads((undisturbed.workdir / "config.json").read_text())
    assert facts["config.federation.cohort_size"] == 4
    assert facts["config.name"] == "quickstart"


def test_the_run_ends_in_a_report_and_a_model(undisturbed):
    run = undisturbed.workdir
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "model").is_dir()
    assert list(run.glob("tensorboard/events*"))
