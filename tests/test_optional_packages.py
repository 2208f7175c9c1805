"""A machine without packages that not everybody needs: it works, or says what to install."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ufm_jax.data.federated import load_federated
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError

CODE = """
import sys
for name in ("grain", "tensorflow_datasets", "array_record", "tensorboard", "tensorflow"):
    sys.modules[name] = None  # any import of it fails
from ufm_jax.data.federated import load_federated
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError
import ufm_jax.train.report, ufm_jax.train.pretraining
settings = dict(cache_dir={cache!r}, working_size=16)
data = load_federated(DataSettings(source="folders", root={root!r} + "/data", **settings))
assert data.store.read([0, 1])["image"].shape == (2, 16, 16, 1)
try:
    load_federated(DataSettings(source="tfds", root={root!r} + "/built", **settings))
except DataError as error:
    print(error)
"""


def test_folders_need_none_of_them(tmp_path):
    for client in ("a", "b"):
        (tmp_path / "data" / client).mkdir(parents=True)
        pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        Image.fromarray(np.roll(pixels, ord(client))).save(tmp_path / "data" / client / "0.png")
    (tmp_path / "built" / "set" / "1.0.0").mkdir(parents=True)
    (tmp_path / "built" / "set" / "1.0.0" / "dataset_info.json").write_text("{}")
    code = CODE.format(root=str(tmp_path), cache=str(tmp_path / "cache"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pip install" in done.stdout


@pytest.mark.parametrize(
    ("name", "package"), [("0.dcm", "pydicom"), ("0.mp4", "av"), ("0.nii.gz", "nibabel")]
)
def test_a_scan_in_a_folder_says_what_to_install(tmp_path, monkeypatch, name, package):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    settings = DataSettings(source="folders", root=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=f"^{package} is not installed: pip install {package}$"):
        load_federated(settings)


def test_a_tool_that_draws_says_what_to_install(tmp_path):
    code = """
import runpy, sys
sys.modules["matplotlib"] = None
runpy.run_module("tools.partition_report", run_name="__main__")
"""
    flags = ("--num_sites=2", "--mean_size=3", "--working_size=32", f"--cache_dir={tmp_path}/cache")
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, f"--out={tmp_path}/out"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr == "error: matplotlib is not installed: pip install matplotlib\n"
