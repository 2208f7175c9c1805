"""A round in chunks is timed only where it has the bits of a whole one."""

import argparse

import pytest

from tools.benchmarks import chunks


def test_other_bits_are_an_error_of_the_benchmark(monkeypatch):
    parser = argparse.ArgumentParser()
    chunks.add_options(parser)
    options = parser.parse_args(["--chunks", "1", "3"])
    found = {1: chunks.Alone(1, "a", 0), 3: chunks.Alone(3, "b", 0)}
    monkeypatch.setattr(chunks, "_run_alone", lambda options, count: found[count])
    with pytest.raises(RuntimeError, match="3 chunks give other bits than 1"):
        chunks.measure(options)
