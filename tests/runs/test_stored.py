"""Files of a run are read as the types that were written, or refused by name and place."""

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

from ufm_jax.errors import RunError
from ufm_jax.runs.stored import as_json, read_as


class Pair(NamedTuple):
    name: str
    score: float


@dataclass(frozen=True)
class Record:
    kind: Literal["a", "b"]
    count: int
    pairs: tuple[Pair, ...]
    by_name: dict[str, float] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()


GOOD = {"kind": "a", "count": 2, "pairs": [{"name": "x", "score": 1}, {"name": "y", "score": None}]}


def read(tmp_path, kind, value):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(value))
    return read_as(kind, path, "restore it")


def test_what_was_written_is_read(tmp_path):
    found = read(tmp_path, Record, GOOD | {"by_name": {"x": 0.5}, "seen": ["u", "u"]})
    assert found.pairs[0] == Pair("x", 1.0)
    assert isinstance(found.pairs[0].score, float)
    assert math.isnan(found.pairs[1].score), "null stands for what was not finite"
    assert (found.by_name, found.seen) == ({"x": 0.5}, frozenset({"u"}))
    assert read(tmp_path, dict[str, Any], {"anything": [1, None]}) == {"anything": [1, None]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "c"}, r"\.kind is 'c', not of type Literal"),
        ({"count": True}, r"\.count is True, not of type int"),
        ({"count": 1.0}, r"\.count is 1\.0, not of type int"),
        ({"count": "1"}, r"\.count is '1', not of type int"),
        ({"pairs": {}}, r"\.pairs is \{\}, not of type tuple"),
        ({"pairs": [{"name": 1, "score": 1}]}, r"\.pairs\[0\]\.name is 1, not of type str"),
        ({"pairs": [{"name": "x"}]}, r"\.pairs\[0\] lacks \['score'\]"),
        ({"by_name": {"x": "1"}}, r"\.by_name\.x is '1', not of type float"),
        ({"by_name": []}, r"\.by_name is \[\], not of type dict"),
        ({"more": 1}, r"the whole lacks \[\] and has unknown \['more'\]"),
    ],
)
def test_another_content_is_named_with_its_place(tmp_path, change, message):
    with pytest.raises(
        RunError, match=rf"file\.json is damaged or of another kind \({message}.*res"
    ):
        read(tmp_path, Record, GOOD | change)


@pytest.mark.parametrize("whole", [[], None, 3, "text", {}])
def test_another_whole_is_refused(tmp_path, whole):
    with pytest.raises(RunError, match=r"file\.json is damaged .*: restore it"):
        read(tmp_path, Record, whole)


@dataclass(frozen=True)
class Thing:
    values: Any


def test_numbers_arrays_and_nesting():
    thing = Thing({"a": (np.float32(0.5), np.arange(2), True, None), "b": [Thing("x")]})
    loaded = json.loads(json.dumps(as_json(thing), allow_nan=False))
    assert loaded == {
        "values": {
            "a": [0.5, [0, 1], True, None],
            "b": [{"values": "x"}],
        }
    }


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, np.float32(np.nan), np.array([np.nan])])
def test_what_is_no_number_is_null(odd):
    assert as_json(odd) in (None, [None])


def test_other_types_are_errors():
    with pytest.raises(TypeError, match="set"):
        as_json(Thing({1, 2}))
