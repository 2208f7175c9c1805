"""TensorBoard's files hold the scalars of rounds and clients, by name."""

import dataclasses
import math

import pytest

from tests.runs.records import CLIENT, record
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.runs.trackers.tensorboard import TENSORBOARD_FOLDER
from ufm_jax.runs.tracking import trackers


def written(workdir, *records, done=0) -> dict[str, list[tuple[int, float]]]:
    """What the files hold after records were written."""
    with trackers(PretrainConfig(), workdir, done, ["turin", "oslo"]) as (take,):
        for one in records:
            take(one)
    return read(workdir)


def test_it_holds_the_scalars_of_round_and_client(tmp_path):
    bad = dataclasses.replace(CLIENT, client="oslo", loss=math.nan)
    scalars = written(tmp_path, record(0, clients=[CLIENT, bad]), record(1))
    assert scalars["round/loss"] == [(0, 1.0), (1, 0.5)]
    assert scalars["round/images_per_second"] == [(0, 32.0), (1, 32.0)]
    assert scalars["client/turin/loss"] == [(0, 0.5), (1, 0.5)]
    assert "client/oslo/loss" not in scalars
    assert scalars["client/oslo/steps"] == [(0, 2.0)]


def test_it_holds_what_the_judge_found(tmp_path):
    found = record(
        1,
        held_out_loss=0.4,
        held_out={"turin": 0.3, "oslo": math.nan},
        probe={"benign, malignant": {"knn_auroc": 0.75}},
    )
    scalars = written(tmp_path, record(0), found)
    assert scalars["round/held_out_loss"] == [(1, pytest.approx(0.4))]
    assert scalars["client/turin/held_out_loss"] == [(1, pytest.approx(0.3))]
    assert "client/oslo/held_out_loss" not in scalars
    (tag,) = (tag for tag in scalars if tag.startswith("probe/"))
    assert tag.endswith("/knn_auroc")
    assert scalars[tag] == [(1, 0.75)]


def test_a_resumed_run_hides_the_rounds_that_come_again(tmp_path):
    written(tmp_path, record(0), record(1))
    written(tmp_path, record(1), done=1)
    assert 1 in [event.step for event in events(tmp_path) if event.session_log.status == 1]


def events(workdir):
    """All events: records of length (8 bytes), crc (4), payload, crc (4)."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted((workdir / TENSORBOARD_FOLDER).iterdir()):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            yield Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def read(workdir) -> dict[str, list[tuple[int, float]]]:
    """(round, value) of each tag."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(workdir):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found
