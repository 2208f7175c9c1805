"""The README's example and commands run as they stand."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from tests.documented import ROOT, clone_in, commands_in, shown_by

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_example_learns_the_weights(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    scope = {}
    exec(code, scope)
    np.testing.assert_allclose(scope["state"].server.params["w"], [1, -2, 3], atol=1e-3)
    assert "[" in capsys.readouterr().out


def run_section(heading, folder) -> list[str]:
    """Runs a section's commands, word for word, in a folder that looks like a clone."""
    commands = commands_in(README.split(f"## {heading}")[1].split("\n## ")[0])
    clone_in(folder)
    for command in commands:
        run(command, folder)
    return [re.search(r"-m \S+\.(\S+)", command)[1] for command in commands]


def run(command, folder):
    subprocess.run([sys.executable, *shlex.split(command)], cwd=folder, check=True)


@pytest.mark.slow
def test_the_way_from_images_to_a_report_runs_as_written(tmp_path):
    run = run_section("From your images to a report", tmp_path)
    assert run == ["prepare_data", "finetune", "evaluate", "predict", "pretrain"]
    for folder in ("pretrained", "lesions", "elsewhere"):
        assert (tmp_path / f"runs/{folder}/report.html").is_file()
    rows = (tmp_path / "predictions/predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + len(list((tmp_path / "data/unlabelled").iterdir()))


@pytest.mark.slow
@pytest.mark.usefixtures("homes")
def test_the_way_from_scans_to_outlines_runs_as_written(tmp_path):
    run = run_section("From DICOM and clips", tmp_path)
    assert run == ["prepare_data", "pretrain", "finetune", "finetune", "predict", "prepare_data"]
    for report in ("runs/scans", "runs/findings", "runs/outlines", "shareable"):
        assert (tmp_path / report / "report.html").is_file()
    header, *rows = (tmp_path / "outlined/predictions.csv").read_text().splitlines()
    assert ",mm2_" in header
    assert len(rows) > len(list((tmp_path / "scans/new").iterdir())), "the clip has several rows"
    assert len(list((tmp_path / "outlined/clips").glob("*.mp4"))) == 1
    assert len(list((tmp_path / "outlined/dicom").glob("*.dcm"))) == len(rows)


@pytest.mark.slow
def test_the_first_command_and_what_takes_its_run_work_as_written(tmp_path):
    assert run_section("Try it", tmp_path) == ["pretrain"]
    assert (tmp_path / "runs/quickstart/report.html").is_file()
    (tmp_path / "runs/mine").symlink_to("quickstart")
    run(shown_by(ROOT / "docs/weights.md")[1], tmp_path)
    assert (tmp_path / "vit.safetensors").is_file()
    run("-m tools.prepare_data phantoms --out data --sites 3 --images 12 --size 64", tmp_path)
    (tmp_path / "FOLDER").symlink_to("data/institutions")
    run(next(c for c in shown_by(ROOT / "docs/data.md") if "partition_report" in c), tmp_path)
    assert (tmp_path / "who_has_what/partition.json").is_file()
