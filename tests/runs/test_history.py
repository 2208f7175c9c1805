"""The history holds every round once, whatever kills and resumes happen to the run."""

import dataclasses
import json
import logging
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs.records import CLIENT, record
from ufm_jax.errors import RunError
from ufm_jax.runs.history import HISTORY_FILE, MetricWriter, RoundRecord, read_history


def write(workdir, rounds, resume_round=0):
    with MetricWriter(workdir, resume_round) as writer:
        for round_ in rounds:
            writer.write(record(round_))


def read(workdir):
    """Rounds as dictionaries, in which an unknown figure equals itself on any Python."""
    return [dataclasses.asdict(found) for found in read_history(workdir)]


def test_what_is_written_is_read(tmp_path):
    write(tmp_path, range(4))
    assert read(tmp_path) == [dataclasses.asdict(record(round_)) for round_ in range(4)]


def test_a_run_without_history_reads_as_empty(tmp_path):
    assert read_history(tmp_path) == []


def test_a_round_is_on_disk_before_the_writer_closes(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(record(0))
    assert read(tmp_path) == [dataclasses.asdict(record(0))]
    writer.close()


def test_numbers_that_are_not_finite_are_valid_json_and_come_back_as_nan(tmp_path):
    bad = dataclasses.replace(CLIENT, loss=math.nan, update_norm=-math.inf, finite=False)
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(
            record(0, loss=math.inf, virtual_seconds=math.nan, rejected=["turin"], clients=[bad])
        )
    line = (tmp_path / HISTORY_FILE).read_text()

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    assert json.loads(line, parse_constant=refuse)["loss"] is None
    (back,) = read_history(tmp_path)
    assert math.isnan(back.loss)
    assert math.isnan(back.clients[0].loss)
    assert math.isnan(back.clients[0].update_norm)
    assert math.isnan(back.virtual_seconds)
    assert back.rejected == ["turin"]


def test_numpy_scalars_are_written_as_their_values(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(
            record(0, loss=np.float32(0.25), images=np.int64(64), seconds=np.float32("nan"))
        )
    (back,) = read_history(tmp_path)
    assert (back.loss, back.images) == (0.25, 64)
    assert math.isnan(back.seconds)


def test_resuming_drops_the_rounds_from_the_resumed_one_on(tmp_path):
    write(tmp_path, range(6))
    write(tmp_path, range(3, 5), resume_round=3)
    assert [item.round for item in read_history(tmp_path)] == [0, 1, 2, 3, 4]


def test_starting_at_zero_starts_anew(tmp_path):
    write(tmp_path, range(3))
    write(tmp_path, [0])
    assert [item.round for item in read_history(tmp_path)] == [0]


@given(cut=st.integers(min_value=0, max_value=10_000), resume=st.integers(0, 4))
def test_a_kill_at_any_byte_leaves_a_history_that_resumes(cut, resume, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    lines = [_line(record(round_, rejected=["zürich – é"])) for round_ in range(4)]
    whole = "".join(lines).encode()
    (workdir / HISTORY_FILE).write_bytes(whole[: cut % (len(whole) + 1)])
    known = [item.round for item in read_history(workdir)]
    assert known == list(range(len(known)))
    write(workdir, range(resume, 5), resume_round=resume)
    kept = [round_ for round_ in known if round_ < resume]
    assert [item.round for item in read_history(workdir)] == kept + list(range(resume, 5))


def test_a_kill_while_the_history_is_replaced_leaves_the_old_one(tmp_path):
    write(tmp_path, range(3))
    (tmp_path / f"{HISTORY_FILE}.0.partial").write_text('{"round": 0')
    assert [item.round for item in read_history(tmp_path)] == [0, 1, 2]
    write(tmp_path, [2], resume_round=2)
    assert [item.round for item in read_history(tmp_path)] == [0, 1, 2]


def test_rounds_missing_before_the_resumed_one_are_said(tmp_path, caplog):
    write(tmp_path, range(2))
    with caplog.at_level(logging.WARNING):
        write(tmp_path, [5], resume_round=5)
    assert "holds 2 of the 5 rounds" in caplog.text


@pytest.mark.parametrize(
    "broken", ['{"round": 1}', "garbage", "[]", "3", "", "the line before", "a loss in words"]
)
def test_a_broken_line_is_an_error_that_names_it_unless_its_round_comes_again(
    tmp_path, broken, caplog
):
    write(tmp_path, range(3))
    path = tmp_path / HISTORY_FILE
    lines = path.read_text().splitlines()
    broken = {
        "the line before": lines[0],
        "a loss in words": lines[1].replace('"loss": 0.5', '"loss": "low"', 1),
    }.get(broken, broken)
    path.write_text("\n".join([lines[0], broken, lines[2], ""]))
    with pytest.raises(RunError, match=rf"{HISTORY_FILE}, line 2 is not a round's record"):
        read_history(tmp_path)
    with pytest.raises(RunError, match="line 2"):
        MetricWriter(tmp_path, 2)
    assert path.read_text().splitlines()[2] == lines[2], "nothing was dropped"
    with caplog.at_level(logging.WARNING):
        write(tmp_path, range(1, 3), resume_round=1)
    assert "what follows line 1 is dropped" in caplog.text
    assert [item.round for item in read_history(tmp_path)] == [0, 1, 2]


def test_a_round_cannot_be_written_twice(tmp_path):
    with MetricWriter(tmp_path, 2) as writer:
        writer.write(record(2))
        with pytest.raises(ValueError, match="round 2 is already"):
            writer.write(record(2))


def test_a_negative_round_is_refused(tmp_path):
    with pytest.raises(ValueError, match="resume_round=-1"):
        MetricWriter(tmp_path, -1)


def test_the_history_holds_what_the_judge_found(tmp_path):
    found = record(
        1,
        held_out_loss=0.4,
        held_out={"turin": 0.3, "oslo": math.nan},
        probe={"benign, malignant": {"knn_auroc": 0.75}},
        judging_seconds=0.5,
    )
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(record(0))
        writer.write(found)
    read = read_history(tmp_path)[1]
    assert read.held_out["turin"] == 0.3
    assert math.isnan(read.held_out["oslo"])
    assert read.probe == found.probe


def _line(item: RoundRecord) -> str:
    return json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n"
