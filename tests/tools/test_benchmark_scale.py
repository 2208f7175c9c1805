"""What `benchmark scale` claims: one compilation, flat device memory, the same result anywhere."""

import argparse

import jax
import numpy as np
import pytest

from tools.benchmarks import scale
from tools.benchmarks.processes import run_processes
from tools.benchmarks.small import relative_distance, small_federation, small_round
from ufm_jax.fed.placement import make_placement


def _rows(*arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int)
    scale.add_options(parser)
    return scale.measure(parser.parse_args([*arguments, "--repeats=1"])).rows


def test_device_memory_is_flat_in_the_population():
    rows = _rows("--over", "population", "--populations", "50", "5000", "--cohort_size", "5")
    small, large = (row["device MB"] for row in rows)
    assert large == pytest.approx(small, rel=0.5)
    assert [row["compilations"] for row in rows] == [1, 1]


def test_the_steps_of_a_cohort_are_those_of_its_clients():
    (row,) = _rows("--over", "cohort", "--cohorts", "40")
    federation = small_federation(40, 40, make_placement(1))
    assert row["steps"] == federation.num_steps.sum()
    assert row["us a step"] == pytest.approx(row["seconds"] / row["steps"] * 1e6, rel=0.1)


def test_every_number_of_devices_gives_the_same_parameters():
    rows = _rows("--over", "devices", "--cohort_size", "12", "--lanes", "2")
    assert [row["size"] for row in rows] == [1, 2, 4, 8]
    assert all(float(row["against the first"]) < 1e-6 for row in rows)


def test_only_the_examples_of_the_round_are_made():
    one = small_round(2000, 3, make_placement(2, 2))
    assert len(one.examples["y"]) == one.federation.sizes[one.plan.schedule.client].sum()
    used = one.rows >= 0
    np.testing.assert_array_equal(used, one.plan.rows >= 0)
    assert sorted(one.rows[used]) == list(range(len(one.examples["y"])))


def test_the_round_learns():
    one = small_round(20, 20, make_placement(2, 2))
    losses = []
    for _ in range(20):
        plan = one.federation.plan(0)
        one.state, metrics = one.federation.run_chunk(one.state, one.examples, plan, 0, one.rows)
        results = one.federation.results(plan, metrics)
        losses.append(np.mean([result.loss for result in results]))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_two_processes_give_the_same_parameters_as_one():
    one, two = (run_processes(count, 4, 20, 2, 1) for count in (1, 2))
    assert relative_distance(two.params, one.params) < 1e-6
    assert jax.process_count() == 1
