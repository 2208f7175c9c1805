"""W&B offline: what its files hold of a run that was stopped and went on, and what they do not."""

import dataclasses
import json
import struct

import pytest

from tests.runs.records import CLIENT, record
from tests.runs.trackers.private import CLIENTS, as_user, assert_tells_nobody, private_config
from ufm_jax.runs.history import MetricWriter
from ufm_jax.runs.trackers.tracker import read_id
from ufm_jax.runs.tracking import trackers

wandb = pytest.importorskip("wandb", reason="pip install 'ufm-jax[tracking]'")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run that was stopped by an error and went on."""
    place = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        as_user(patch)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_CACHE_DIR", str(place / "cache"))
        patch.setenv("HOME", str(place))
        with pytest.raises(InterruptedError):
            train(place, 0, 3, error=InterruptedError)
        train(place, 2, 5)
        wandb.teardown()  # Waits until the files are whole, as the end of a process does.
    return place


def train(place, first, last, error=None):
    """Rounds from ``first`` on, and then ``error``, if one is given."""
    config, workdir = private_config(place, "wandb"), place / "run"
    clients = [dataclasses.replace(CLIENT, client=name) for name in CLIENTS]
    with (
        MetricWriter(workdir, first) as writer,
        trackers(config, workdir, first, CLIENTS) as (take,),
    ):
        for one in (record(r, clients=clients) for r in range(first, last)):
            writer.write(one)
            take(one)
        if error:
            raise error


def records(file):
    """What a file holds: blocks of 32 KiB of crc (4), length (2), kind (1), part of a record."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, text = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        text += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # Whole, or the last part.
            yield Record.FromString(text)
            text = b""


def files(place):
    return sorted(place.glob("run/wandb/offline-run-*/*.wandb"), key=lambda f: f.stat().st_mtime)


def rounds(file):
    found = []
    for one in (one for one in records(file) if one.HasField("history")):
        items = {"/".join(i.nested_key) or i.key: i.value_json for i in one.history.item}
        found.append((json.loads(items["_step"]), json.loads(items["round/loss"])))
    return found


def test_each_start_holds_all_of_its_rounds_under_one_name(place):
    before, after = files(place)
    assert rounds(before) == [(r, 1 / (r + 1)) for r in range(3)]
    assert rounds(after) == [(r, 1 / (r + 1)) for r in range(5)]
    names = {one.run.run_id for f in (before, after) for one in records(f) if one.HasField("run")}
    assert names == {read_id(place / "run", "wandb")}


def test_it_is_told_how_a_run_ended(place):
    ends = [
        [one.exit.exit_code for one in records(f) if one.HasField("exit")] for f in files(place)
    ]
    assert ends == [[1], [0]]


def test_it_tells_nobody_who_trained_on_what_and_where(place):
    for file in files(place):
        assert_tells_nobody("".join(map(str, records(file))), place)
        assert not list((file.parent / "files").rglob("*"))
