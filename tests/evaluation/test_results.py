"""Results become JSON, and only what JSON knows."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from ufm_jax.evaluation.results import Estimate, plain


@dataclass(frozen=True)
class Thing:
    values: Any


def test_numbers_arrays_and_nesting():
    thing = Thing({"a": (np.float32(0.5), np.arange(2), True, None), "b": [Estimate(1, 0, 2, 3)]})
    loaded = json.loads(json.dumps(plain(thing), allow_nan=False))
    assert loaded == {
        "values": {
            "a": [0.5, [0, 1], True, None],
            "b": [{"value": 1, "low": 0, "high": 2, "n": 3, "note": ""}],
        }
    }


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, np.float32(np.nan), np.array([np.nan])])
def test_what_is_no_number_is_null(odd):
    assert plain(odd) in (None, [None])


def test_other_types_are_errors():
    with pytest.raises(TypeError, match="set"):
        plain(Thing({1, 2}))


def test_an_estimate_reads_as_text():
    assert str(Estimate(0.91234, 0.85, 0.95, 10)) == "0.912 (0.850 to 0.950)"
    assert str(Estimate(0.91234, np.nan, np.nan, 10)) == "0.912"
