"""Packing: every client runs once, lanes never overlap, and few slots idle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.fed.schedule import limits, pack, pin

STEPS = st.lists(st.integers(1, 60), min_size=1, max_size=24)


def _slots(schedule):
    """(lane, step) of every slot in which a client trains."""
    return [
        (lane, step)
        for lane, first, count in zip(
            schedule.lane, schedule.first_step, schedule.num_steps, strict=True
        )
        for step in range(first, first + count)
    ]


@given(STEPS, st.integers(1, 4), st.integers(1, 4))
def test_no_slot_is_used_twice_and_lanes_have_no_gaps(steps, devices, lanes):
    schedule = pack(range(len(steps)), steps, num_devices=devices, lanes=lanes)
    slots = _slots(schedule)
    assert len(set(slots)) == len(slots) == sum(steps)
    for lane in range(devices * lanes):
        mine = sorted(step for where, step in slots if where == lane)
        assert mine == list(range(len(mine)))


@given(STEPS, st.integers(1, 8))
def test_makespan_is_within_grahams_bound(steps, lanes):
    schedule = pack(range(len(steps)), steps, lanes=lanes)
    best = max(max(steps), -(-sum(steps) // lanes))
    assert schedule.makespan <= (4 / 3 - 1 / (3 * lanes)) * best + 1e-9 or len(steps) > lanes
    assert schedule.makespan <= sum(steps) / lanes + max(steps)


@given(STEPS, st.integers(1, 3), st.integers(1, 3), st.randoms())
def test_the_order_of_the_cohort_does_not_matter(steps, devices, lanes, random):
    order = list(range(len(steps)))
    random.shuffle(order)
    one = pack(range(len(steps)), steps, num_devices=devices, lanes=lanes)
    other = pack(order, np.array(steps)[order], num_devices=devices, lanes=lanes)
    for name in ("client", "lane", "first_step", "num_steps"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@given(STEPS, st.integers(1, 4), st.integers(1, 3), st.data())
def test_limits_hold_for_every_cohort(steps, devices, lanes, data):
    size = data.draw(st.integers(1, len(steps)))
    pinned = data.draw(st.booleans())
    home = pin(steps, devices) if pinned else None
    bound = limits(steps, size, num_devices=devices, lanes=lanes, device=home)
    cohort = np.array(data.draw(st.permutations(range(len(steps)))))[:size]
    schedule = pack(
        cohort,
        np.array(steps)[cohort],
        num_devices=devices,
        lanes=lanes,
        device=None if home is None else home[cohort],
    )
    assert schedule.makespan <= bound.steps
    assert np.bincount(schedule.lane // lanes).max() <= bound.clients
    if home is not None:
        np.testing.assert_array_equal(schedule.lane // lanes, home[schedule.client])


def test_sixteen_lognormal_clients_fill_two_lanes():
    """Design: at least 0.98 of the slots do work, as a mean over 20 draws."""
    fractions = []
    for draw in range(20):
        sizes = np.random.default_rng(draw).lognormal(np.log(200), 1.0, 16)
        steps = np.maximum(1, np.round(sizes).astype(int) // 8)
        fractions.append(pack(range(16), steps, lanes=2).useful_fraction)
    assert np.mean(fractions) >= 0.98, np.mean(fractions)


def test_pinning_balances_devices():
    steps = np.random.default_rng(0).lognormal(3, 1, 64).astype(int) + 1
    load = np.bincount(pin(steps, 4), weights=steps)
    assert load.max() / load.mean() < 1.05


def test_a_client_without_steps_is_refused():
    with pytest.raises(ValueError, match="client 7 has no local step"):
        pack([3, 7], [2, 0])


def test_a_client_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        pack([3, 3], [2, 2])


@pytest.mark.parametrize(("clients", "lanes"), [(16, 2), (16, 4), (128, 16)])
def test_lanes_are_full_where_there_is_more_work_than_the_largest_client(clients, lanes):
    rng = np.random.default_rng(0)
    draws = [np.ceil(60 * rng.lognormal(0, 1, clients)).astype(int) for _ in range(100)]
    fractions = [
        pack(np.arange(clients), steps, lanes=lanes).useful_fraction
        for steps in draws
        if steps.sum() / lanes > steps.max()
    ]
    assert len(fractions) > 20
    assert np.mean(fractions) > 0.97
    assert np.mean(np.array(fractions) >= 0.95) > 0.9
