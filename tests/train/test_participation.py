"""Traces and clocks from a configuration."""

from types import SimpleNamespace

import numpy as np
import pytest

from ufm_jax.config.federation import FederationConfig, ParticipationConfig
from ufm_jax.errors import ConfigError
from ufm_jax.finetuning.run import finetune
from ufm_jax.train.participation import make_clock, make_participation, read_trace
from ufm_jax.train.pretraining import pretrain

NAMES = ("north", "south")


def written(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def test_a_trace_is_read_by_the_clients_names(tmp_path):
    path = written(tmp_path, "\ufeffsouth , elsewhere,north\n1.0,0,0\n\n1,1, 1\n")
    np.testing.assert_array_equal(read_trace(path, NAMES), [[False, True], [True, True]])
    config = ParticipationConfig(trace=str(path))
    assert list(make_participation(config, NAMES).draw(2, np.ones(2), 2, None)) == [1]


@pytest.mark.parametrize("trace", ["nowhere.csv", "", "trace.csv/inside"])
@pytest.mark.parametrize("run", [pretrain, finetune], ids=["pretrain", "finetune"])
def test_a_trace_that_cannot_be_read_is_refused_before_the_data_are(tmp_path, run, trace):
    written(tmp_path, "north\n1\n")
    config = FederationConfig(participation=ParticipationConfig(trace=str(tmp_path / trace)))
    with pytest.raises(ConfigError, match=r"participation\.trace=.*cannot be read \(") as caught:
        run(SimpleNamespace(federation=config), tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("north\n1\n", "no column for client 'south'"),
        ("north,south\n", "no rounds"),
        ("north,south\n1,0\n1,yes\n", "row 3, column 'south': 'yes' is neither 0 nor 1"),
        ("north,south\n1\n", "row 2: it has 1 cells, the header 2"),
        ("", "no column for client 'north'"),
        ("north,south,north\n1,0,1\n", "two columns of one name"),
        ("north,south\n1,NA\n", "row 2, column 'south': '' is neither"),
    ],
)
def test_a_trace_that_does_not_fit_names_file_and_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_trace(written(tmp_path, text), NAMES)
    assert "trace.csv" in str(caught.value)


@pytest.mark.parametrize("trace", ["absent.csv", "."])
def test_a_trace_that_is_no_file_is_refused_by_key(tmp_path, trace):
    with pytest.raises(ConfigError, match=r"config\.federation\.participation\.trace=.*cannot be"):
        read_trace(tmp_path / trace, NAMES)


def test_a_clock_has_the_numbers_of_the_configuration():
    assert make_clock(ParticipationConfig(), 3, 0) is None
    config = ParticipationConfig(step_seconds=2.0, spread=0.0, latency=5.0, deadline=30.0)
    clock = make_clock(config, 3, 0)
    np.testing.assert_array_equal(clock.step_seconds, 2.0)
    np.testing.assert_array_equal(clock.latency, 5.0)
    assert clock.deadline == 30.0
    one, other = (
        make_clock(ParticipationConfig(step_seconds=1.0), 3, seed).step_seconds for seed in (0, 1)
    )
    assert (one != other).all()


def test_a_deadline_needs_a_clock():
    with pytest.raises(ConfigError, match="set step_seconds above 0"):
        ParticipationConfig(deadline=10.0)
