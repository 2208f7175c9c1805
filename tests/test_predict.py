"""The command line of prediction."""

import csv
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ufm_jax.config.finetuning import finetune_config, resolve_finetune
from ufm_jax.config.schema import flatten
from ufm_jax.data.labels.task import Task
from ufm_jax.files import write_json
from ufm_jax.objectives.task import make_objective
from ufm_jax.runs.folder import CONFIG_FILE
from ufm_jax.runs.seen_images import SeenImages, write_seen_images
from ufm_jax.runs.trained_model import TrainedModel, save_model

ROOT = Path(__file__).resolve().parents[1]
TASK = Task("single", ("benign", "malignant"))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ufm_jax.predict", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, without its training."""
    folder = tmp_path_factory.mktemp("run")
    config = finetune_config()
    config.model.update(size="xs", image_size=16, patch_size=8, channels=1)
    config.data.update(source="folders", root=".", working_size=24, channels=1)
    resolved = resolve_finetune(config)
    params = jax.device_get(make_objective(resolved, TASK).init(jax.random.key(0)))
    params["head"]["kernel"] = (
        np.random.default_rng(0).normal(size=params["head"]["kernel"].shape).astype(np.float32)
    )
    write_json(folder / CONFIG_FILE, flatten(resolved) | {"data.clients": ["all"]})
    model = TrainedModel(
        params=params,
        task=TASK,
        personal={},
        clients=(),
        round=1,
        thresholds={"malignant": 0.3},
    )
    write_seen_images(folder, SeenImages("", frozenset()))
    save_model(folder, model)
    return folder


def test_a_folder_is_predicted_and_what_is_no_image_is_said(tmp_path, run):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 54).save(images / "a.png")
    (images / "b.png").write_text("no")
    done = command(
        f"--run={run}", f"--images={images}", f"--out={out}", "--config.evaluation.mirror=True"
    )
    assert done.returncode == 0, done.stderr
    assert "malignant from a probability of 0.3" in done.stdout
    assert "1 of 2 files are predicted" in done.stdout
    assert (
        sum("b.png: does not decode: not an image" in line for line in done.stderr.splitlines())
        == 1
    )
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["a.png", "b.png"]
    assert sum(float(rows[0][f"prob_{name}"]) for name in TASK.classes) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "nowhere"}, "nowhere"),
        ({"config.evaluation.mirrored": "True"}, "mirrored"),
        ({"images": "nowhere"}, "--images=nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, run, change, message):
    flags = {"run": run, "images": ROOT / "docs", "out": tmp_path / "out"} | change
    done = command(*(f"--{name}={value}" for name, value in flags.items()))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.strip()]) == 1, done.stderr
    assert not (tmp_path / "out").exists()
