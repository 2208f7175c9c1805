"""What a run's folder keeps, and refuses to go on with."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import ConfigError, RunError
from ufm_jax.fed.placement import make_placement
from ufm_jax.interop.shipped import weights_path
from ufm_jax.runs.folder import check_free, check_outside, claim, lanes_begun_with

DATA = SimpleNamespace(
    names=("a", "b"),
    offsets=np.array([0, 2, 5]),
    fingerprint="x",
    issues=SimpleNamespace(to_json=dict),
    summary=list,
    held_out=None,
)


def with_trace(path):
    config = PretrainConfig()
    participation = replace(config.federation.participation, trace=str(path))
    return replace(config, federation=replace(config.federation, participation=participation))


def with_root(path):
    config = PretrainConfig()
    return replace(config, data=replace(config.data, root=str(path)))


def with_weights(path):
    config = FinetuneConfig()
    return replace(config, start=replace(config.start, weights=str(path)))


def begin(workdir, config, data=DATA):
    """A folder whose run has saved a checkpoint."""
    claim(workdir, config, data, make_placement(1))
    (workdir / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("with_file", [with_trace, with_weights])
def test_a_file_of_the_configuration_is_known_by_its_content(tmp_path, with_file):
    file, moved, workdir = tmp_path / "file", tmp_path / "moved", tmp_path / "run"
    file.write_text("a,b\n1,0\n")
    begin(workdir, with_file(file))
    file.rename(moved)
    begin(workdir, with_file(moved))
    moved.write_text("a,b\n0,1\n")
    with pytest.raises(ConfigError, match=r"\(content\)"):
        begin(workdir, with_file(moved))


def test_weights_that_come_with_the_project_are_known_by_name_as_by_path(tmp_path):
    begin(tmp_path / "run", with_weights("ufm_ti16"))
    begin(tmp_path / "run", with_weights(weights_path("ufm_ti16")))


def test_weights_in_a_runs_folder_are_known_by_its_model(tmp_path):
    folder, workdir = tmp_path / "pretrained", tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "array").write_text("1")
    begin(workdir, with_weights(folder))
    (folder / "report.html").write_text("drawn again")
    begin(workdir, with_weights(folder))
    (folder / "model" / "array").write_text("2")
    with pytest.raises(ConfigError, match=r"config\.start\.weights \(content\)"):
        begin(workdir, with_weights(folder))


def test_a_file_that_is_not_there_is_named_with_its_key(tmp_path):
    with pytest.raises(ConfigError, match=r"participation\.trace='.*none': it cannot be read"):
        begin(tmp_path / "run", with_trace(tmp_path / "none"))


def test_equal_data_in_another_folder_goes_on_and_other_data_does_not(tmp_path):
    begin(tmp_path / "run", with_root("/scratch/1"))
    begin(tmp_path / "run", with_root("/scratch/2"))
    other = SimpleNamespace(**vars(DATA) | {"fingerprint": "y"})
    with pytest.raises(ConfigError, match=r"data\.fingerprint"):
        begin(tmp_path / "run", with_root("/scratch/2"), other)


def test_where_no_fingerprint_is_known_the_folder_binds(tmp_path):
    unknown = SimpleNamespace(**vars(DATA) | {"fingerprint": ""})
    begin(tmp_path / "run", with_root("/scratch/1"), unknown)
    with pytest.raises(ConfigError, match=r"config\.data\.root: '/scratch/1' there"):
        begin(tmp_path / "run", with_root("/scratch/2"), unknown)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", None])
def test_a_damaged_configuration_of_a_run_is_one_line_with_the_way_out(tmp_path, content):
    workdir = tmp_path / "run"
    begin(workdir, PretrainConfig())
    file = workdir / "config.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    for use in (lambda: begin(workdir, PretrainConfig()), lambda: lanes_begun_with(workdir)):
        with pytest.raises(RunError, match=r"config\.json is damaged .*: put it back as it was"):
            use()


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path):
    check_free(tmp_path / "new")
    claim(tmp_path / "run", PretrainConfig(), DATA, make_placement(1))
    with pytest.raises(ConfigError, match="is the folder of a run: name another"):
        check_free(tmp_path / "run")


def test_config_json_says_where_the_data_lies_now(tmp_path):
    begin(tmp_path / "run", with_root("/scratch/1"))
    begin(tmp_path / "run", with_root("/scratch/2"))
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert facts["config.data.root"] == "/scratch/2"


def test_a_run_among_folders_of_images_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for name in ("data", "data/run", "link/run", "data/../data/run"):
        with pytest.raises(ConfigError, match=r"--workdir=.* lies within data\.root="):
            check_outside(tmp_path / name, DataSettings(source="folders", root=f"{tmp_path}/data"))
    check_outside(tmp_path / "run", DataSettings(source="folders", root=f"{tmp_path}/data"))
    check_outside(tmp_path / "data/run", DataSettings(source="index", root=f"{tmp_path}/data"))
