"""The methods that are measured are what their names say, and differ in nothing else."""

import argparse
from dataclasses import fields

import pytest

from tools.benchmarks import methods
from ufm_jax.config.federation import FederationConfig
from ufm_jax.train.algorithm import make_aggregator, make_gradient, sent_through

PLAIN = FederationConfig(batch_size=8, client_state="reset", client_weights="uniform")


def test_each_differs_from_the_plain_one_in_its_method_alone():
    method_keys = {"algorithm", "aggregation", "compression", "privacy", "batch_sampling"}
    for name, method in methods.methods(PLAIN).items():
        differing = {
            f.name for f in fields(PLAIN) if getattr(PLAIN, f.name) != getattr(method, f.name)
        }
        assert differing <= method_keys
        assert bool(differing) == (name != methods.PLAIN)
        make_aggregator(method, 16)
        make_gradient(method)
        sent_through(method, 16)


@pytest.mark.slow
def test_a_row_a_method():
    parser = argparse.ArgumentParser()
    methods.add_options(parser)
    small = "--size=xs --image_size=32 --patch_size=8 --decoder 32 1 2 --images=64 --batch_size=4"
    options = parser.parse_args([*small.split(), "--only", "8 bits"])
    options.repeats = 1
    rows = methods.measure(options).rows
    assert [row["method"] for row in rows] == [methods.PLAIN, "8 bits"]
    assert rows[0]["time"] == 1.0
    assert rows[1]["memory, MB"] >= rows[0]["memory, MB"]
