"""The README's example and commands run as they stand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_example_learns_the_weights(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    scope = {}
    exec(code, scope)
    np.testing.assert_allclose(scope["state"].server.params["w"], [1, -2, 3], atol=1e-3)
    assert "[" in capsys.readouterr().out


@pytest.mark.slow
def test_the_way_from_images_to_a_report_runs_as_written(tmp_path):
    """The README's commands, word for word, in a folder that looks like a clone."""
    text = README.split("## From your images to a report")[1].split("\n## ")[0]
    commands = re.findall(r"^    (python -m .*)$", text, re.MULTILINE)
    assert [re.search(r"-m (\S+)", command)[1] for command in commands] == [
        "tools.prepare_data",
        "ufm_jax.finetune",
        "ufm_jax.evaluate",
        "ufm_jax.predict",
        "ufm_jax.pretrain",
    ]
    for name in ("configs", "tools", "ufm_jax"):
        (tmp_path / name).symlink_to(ROOT / name)
    for command in commands:
        words = [sys.executable, *shlex.split(command)[1:]]
        subprocess.run(words, cwd=tmp_path, check=True)
    for folder in ("pretrained", "lesions", "elsewhere"):
        assert (tmp_path / f"runs/{folder}/report.html").is_file()
    rows = (tmp_path / "predictions/predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + len(list((tmp_path / "data/unlabelled").iterdir()))
