"""The commands themselves, as a user starts them: what they leave behind, and how they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def start(name, *flags, before=()):
    """Starts a command with a loose umask."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    return subprocess.Popen(
        [*before, sys.executable, "-m", f"ufm_jax.{name}", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
        umask=0,
    )


def end(process):
    """Exit code and output of a command."""
    output = process.communicate(timeout=120)[0]
    return process.returncode, output


def one_line(output, *parts):
    """Checks that a command said one line, an error that holds these parts."""
    lines = output.splitlines()
    assert len(lines) == 1, output
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


class Place:
    """A folder of images, a sub-folder a class, and the flags of small runs on them."""

    def __init__(self, folder):
        self.folder, self.images = folder, folder / "data"
        (folder / "a_file").touch()
        random = np.random.default_rng(0)
        for name in ("benign", "malignant"):
            (self.images / name).mkdir(parents=True)
            for n in range(10):
                pixels = random.integers(0, 255, (32, 32), np.uint8)
                Image.fromarray(pixels).save(self.images / name / f"{n}.png")

    def flags(self, data, workdir, **keys):
        keys = {
            f"{data}.root": self.images,
            f"{data}.cache_dir": self.folder / "cache",
            f"{data}.working_size": 24,
            "model.size": "xs",
            "model.image_size": 16,
            "model.patch_size": 8,
            "model.scan_layers": True,
            "federation.rounds": 2,
            "federation.batch_size": 4,
            "schedule.warmup_rounds": 1,
            "checkpoint.every_rounds": 1,
            "placement.cpu_devices": 1,
            "placement.lanes": 1,
        } | keys
        return [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in keys.items())]

    def pretrain(self, workdir):
        keys = {"data.source": "folders"}
        keys |= {"augment.degrade": 0.0, "augment.scan_conversion": 0.0}
        keys |= {"model.decoder_depth": 1, "model.decoder_width": 32, "model.decoder_heads": 2}
        flags = self.flags("data", workdir, **keys)
        return ["pretrain", "--config=configs/quickstart.py", *flags]

    def finetune(self, workdir):
        keys = {"evaluation.replicates": 20}
        flags = self.flags("data", workdir, **keys)
        return ["finetune", "--config=configs/finetune.py", *flags]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def written(place):
    """Folders of a pretraining, a fine-tuning, an evaluation and a prediction."""
    folder = place.folder
    commands = {
        "pretrained": place.pretrain(folder / "pretrained"),
        "tuned": place.finetune(folder / "tuned"),
        "evaluated": ["evaluate", f"--run={folder / 'tuned'}", f"--out={folder / 'evaluated'}"],
        "predicted": [
            "predict",
            f"--run={folder / 'tuned'}",
            f"--images={place.images}",
            f"--out={folder / 'predicted'}",
        ],
    }
    for name, command in commands.items():
        code, output = end(start(*command))
        assert code == 0, (name, output)
    return {name: folder / name for name in commands}


EXPECTED = {
    "pretrained": "config.json data.json metrics.jsonl report.html reconstructions.png",
    "tuned": "config.json task.json seen.json evaluation.json metrics.jsonl "
    "report.html predictions_test.csv predictions_val.csv",
    "evaluated": "evaluation.json predictions_test.csv report.html",
    "predicted": "predictions.csv",
}
LIBRARIES = {
    "pretrained": ("checkpoints/2/*", "model/*", "tensorboard/*"),
    "tuned": ("checkpoints/*/*", "model/*", "tensorboard/*"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_file_and_folder_that_a_command_writes_is_its_owners_alone(written, name):
    folder = written[name]
    for file in EXPECTED[name].split():
        assert (folder / file).is_file(), file
    for pattern in LIBRARIES.get(name, ()):
        assert list(folder.glob(pattern)), pattern
    modes = {path: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    wrong = {
        str(path): oct(mode)
        for path, mode in modes.items()
        if mode != (0o700 if path.is_dir() else 0o600)
    }
    assert not wrong
    assert not {path.name for path in modes} & {"lock", "errors.log"}


def test_a_run_that_its_limit_of_file_sizes_ends_is_told_in_few_lines_and_goes_on(place, written):
    workdir = place.folder / "limited"
    limited = ("bash", "-c", 'ulimit -f 29; exec "$@"', "bash")  # KiB
    code, output = end(start(*place.pretrain(workdir), before=limited))
    assert code == 74, output
    assert output.count("\n") < 12
    assert "Traceback" not in output
    last = output.splitlines()[-1]
    assert last.startswith(f"error: {workdir}")
    assert "File too large; raise the limit on the size of files (ulimit -f)" in last
    assert "Traceback" in (workdir / "errors.log").read_text()
    code, output = end(start(*place.pretrain(workdir)))
    assert code == 0, output
    assert (workdir / "metrics.jsonl").read_text().count("\n") == 2
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["1", "2"]


def wait_for(path, process):
    end = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


def test_of_two_commands_in_one_folder_the_second_is_refused_and_the_first_ends_well(place):
    workdir = place.folder / "shared"
    first = start(*place.pretrain(workdir))
    wait_for(workdir / "lock", first)
    first.send_signal(signal.SIGSTOP)  # It is not done before the second one looks.
    code, output = end(start(*place.pretrain(workdir)))
    first.send_signal(signal.SIGCONT)
    assert code == 2
    one_line(output, f"--workdir={workdir}: process {first.pid} on ", "wait for its end")
    assert end(first)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_ends_it_in_one_line_and_leaves_nothing(place, number):
    workdir, endless = place.folder / f"stopped_{number}", place.folder / f"pipe_{number}"
    os.mkfifo(endless)  # It is read before training, and gives nothing.
    trace = f"--config.federation.participation.trace={endless}"
    process = start(*place.pretrain(workdir), trace)
    wait_for(workdir / "lock", process)
    process.send_signal(number)
    code, output = end(process)
    assert code == 128 + number
    one_line(output, f"stopped by {number.name}")
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("workdir", "code", "reason"),
    [
        ("", 2, "flag --workdir=: it is empty: name a path"),
        ("$NOWHERE_TO_BE/run", 2, "$NOWHERE_TO_BE is not set"),
        ("{folder}/data/run", 2, "whose folders are all read as images: name another --workdir"),
        ("{folder}/a_file", 74, "a_file: File exists; something else has that name"),
        ("{folder}/a_file/run", 74, "run: Not a directory; something else has that name"),
        ("/proc/run", 74, "/proc/run: No such file or directory; check the path"),
        ("{folder}/" + 300 * "x", 74, "x: File name too long; choose a shorter name"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_in_one_line(place, workdir, code, reason):
    found, output = end(start(*place.pretrain(workdir.format(folder=place.folder))))
    assert found == code, output
    one_line(output, reason)


def test_home_is_expanded_where_the_shell_leaves_it(place):
    process = subprocess.run(
        [
            *(sys.executable, "-m", "ufm_jax.pretrain", "--config=configs/quickstart.py"),
            *("--workdir=~/run", "--config.data.source=folders", "--config.data.root=~/nowhere"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "HOME": str(place.folder / "home")},
    )
    assert process.returncode == 2
    assert str(place.folder / "home" / "nowhere") in process.stderr
    assert not (ROOT / "~").exists()


@pytest.mark.parametrize(
    ("command", "config", "other"),
    [("pretrain", "finetune", "finetune"), ("finetune", "quickstart", "pretrain")],
)
def test_the_other_commands_configuration_is_told_in_one_line(tmp_path, command, config, other):
    flags = (f"--config=configs/{config}.py", f"--workdir={tmp_path}")
    code, output = end(start(command, *flags))
    assert code == 2
    one_line(output, f"use it with python -m ufm_jax.{other}")
