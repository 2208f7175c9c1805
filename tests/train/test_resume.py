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

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from ufm_jax.train.metrics import HISTORY_FILE, read_history

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = {
    "federation.cohort_size": 4,
    "federation.batch_size": 4,
    "data.num_sites": 6,
    "data.mean_size": 12,
    "data.working_size": 40,
    "model.image_size": 32,
    "model.decoder_width": 48,
    "model.decoder_depth": 1,
    "model.scan_layers": True,
    "schedule.warmup_rounds": 2,
    "placement.cpu_devices": 2,
    "checkpoint.every_rounds": 1,
}
"""A small run: persistent moments, ragged clients, two devices, a checkpoint every round."""


class Kind(NamedTuple):
    """A kind of run: its command, its keys, its rounds, and how often it is killed."""

    command: str
    keys: dict
    rounds: int
    kills: int


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
    "finetune": Kind(
        "finetune:finetune",
        {
            "data.data.working_size": 40,
            "model.size": "xs",
            "model.image_size": 32,
            "model.patch_size": 8,
            "federation.training": "federated",
            "federation.personal": "('head/.*',)",
            "data.data.partition": "iid",
            "data.data.num_clients": 3,
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
NAMES = [
    name if name == "pretrain" else pytest.param(name, marks=pytest.mark.slow) for name in KINDS
]

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
        section = "data.data" if module == "finetune" else "data"
        keys = self.kind.keys | {
            f"{section}.cache_dir": self.place / "decoded",
            "federation.rounds": self.kind.rounds,
        }
        if module == "finetune":
            keys["data.data.root"] = self.place / "images"
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

    def rounds_written(self):
        path = self.workdir / HISTORY_FILE
        return path.read_text().count("\n") if path.exists() else 0

    def wait_for_rounds(self, count, process, seconds=120):
        end = time.monotonic() + seconds
        while self.rounds_written() < count and process.poll() is None:
            assert time.monotonic() < end, (self.place / "log.txt").read_text()[-3000:]
            time.sleep(0.002)

    def seconds_of_a_round(self):
        return float(np.median([record.seconds for record in read_history(self.workdir)[1:]]))

    def final_state(self):
        """Every array of the last checkpoint: parameters, both optimisers' and clients' states."""
        folder = self.workdir.absolute() / "checkpoints" / str(self.kind.rounds)
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(folder / "default")
        return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(tree)}

    def spent(self):
        """The privacy ledger of the last checkpoint."""
        path = self.workdir / "checkpoints" / str(self.kind.rounds) / "_CHECKPOINT_METADATA"
        return json.loads(path.read_text())["custom_metadata"]["ledger"]

    def assert_same_as(self, other):
        expected, found = other.final_state(), self.final_state()
        assert expected.keys() == found.keys()
        assert len(expected) > 50
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert self.spent() == other.spent()
        assert bool(self.spent()) == ("federation.privacy.level" in self.kind.keys)
        histories = [
            [(r.round, r.loss, [(c.client, c.loss) for c in r.clients]) for r in read_history(d)]
            for d in (self.workdir, other.workdir)
        ]
        assert histories[0] == histories[1]
        assert [r for r, *_ in histories[0]] == list(range(self.kind.rounds))
        for name in ("validation.json", "predictions_test.csv", "evaluation.json", "privacy.json"):
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


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_random_moments_it_ends_with_the_same_bits(undisturbed_of, tmp_path, name):
    """At each start the clock is a day behind the start before, so that its files are newer."""
    whole = undisturbed_of(name)
    run = Run(whole.kind, whole.place, tmp_path / "run")
    moments, length = random.Random(0), whole.seconds_of_a_round()
    reached = []
    for _ in range(whole.kind.kills):
        process = run.start()
        # Somewhere in the next rounds: while training, saving, deleting or writing metrics.
        run.wait_for_rounds(run.rounds_written() + 1, process)
        time.sleep(moments.uniform(0, 2 * length))
        assert process.poll() is None, "it ended before it could be killed: add rounds"
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached.append(run.rounds_written())
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
    assert saved[0] == run.rounds_written() < run.kind.rounds
    run.finish()
    run.assert_same_as(undisturbed)


def test_another_configuration_is_refused_and_the_difference_named(undisturbed):
    process = subprocess.run(
        undisturbed.command("--config.model.mask_ratio=0.5"),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert process.returncode == 2
    assert "config.model.mask_ratio: 0.75 there, 0.5 here" in process.stderr
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
