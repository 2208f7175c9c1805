"""What a run's folder keeps, and refuses to go on with."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ufm_jax.errors import ConfigError
from ufm_jax.fed.placement import make_placement
from ufm_jax.train.config import PretrainConfig
from ufm_jax.train.rundir import check_free, claim

DATA = SimpleNamespace(
    names=("a", "b"),
    offsets=np.array([0, 2, 5]),
    fingerprint="x",
    issues=SimpleNamespace(to_json=dict),
    summary=list,
)


def with_trace(path):
    config = PretrainConfig()
    participation = replace(config.federation.participation, trace=str(path))
    return replace(config, federation=replace(config.federation, participation=participation))


def test_a_trace_whose_content_has_changed_is_another_configuration(tmp_path):
    trace, workdir = tmp_path / "trace.csv", tmp_path / "run"
    trace.write_text("a,b\n1,0\n")
    config, placement = with_trace(trace), make_placement(1)
    claim(workdir, config, DATA, placement)
    (workdir / "checkpoints" / "1").mkdir(parents=True)
    claim(workdir, config, DATA, placement)
    trace.write_text("a,b\n0,1\n")
    with pytest.raises(ConfigError, match=r"participation\.trace \(content\)"):
        claim(workdir, config, DATA, placement)


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path):
    check_free(tmp_path / "new")
    claim(tmp_path / "run", PretrainConfig(), DATA, make_placement(1))
    with pytest.raises(ConfigError, match="is the folder of a run: name another"):
        check_free(tmp_path / "run")
