"""Batches: every example once an epoch, in an order that only seed, round and client decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.fed.batches import EMPTY, Batching, round_rows
from ufm_jax.fed.schedule import pack

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def _plan(sizes, batching, *, devices=1, lanes=1, seed=0, round_index=0):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    steps = batching.num_steps(sizes)
    schedule = pack(np.arange(len(sizes)), steps, num_devices=devices, lanes=lanes)
    rows = round_rows(
        schedule,
        offsets,
        batching,
        seed=[seed],
        round_index=round_index,
        max_steps=schedule.makespan,
    )
    return schedule, rows


def _of_client(schedule, rows, client):
    """[T_k, B] rows of one client."""
    i = int(np.flatnonzero(schedule.client == client)[0])
    device, lane = divmod(int(schedule.lane[i]), schedule.lanes)
    first = schedule.first_step[i]
    return rows[device, first : first + schedule.num_steps[i], lane]


@given(SIZES, st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_every_epoch_holds_every_example_once(sizes, batch_size, epochs, devices, lanes):
    batching = Batching(batch_size, local_epochs=epochs)
    schedule, rows = _plan(sizes, batching, devices=devices, lanes=lanes)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    for k, size in enumerate(sizes):
        mine = _of_client(schedule, rows, k)
        for epoch in np.split(mine, epochs):
            used = np.sort(epoch[epoch != EMPTY])
            np.testing.assert_array_equal(used, np.arange(offsets[k], offsets[k] + size))
    assert (rows != EMPTY).sum() == epochs * sum(sizes)


@given(SIZES, st.integers(1, 9), st.integers(0, 5))
def test_the_order_depends_on_nothing_but_seed_round_and_client(sizes, batch_size, round_index):
    batching = Batching(batch_size)
    one = _plan(sizes, batching, round_index=round_index)
    other = _plan(sizes, batching, devices=2, lanes=3, round_index=round_index)
    for k in range(len(sizes)):
        np.testing.assert_array_equal(_of_client(*one, k), _of_client(*other, k))


def test_another_seed_round_or_epoch_is_another_order():
    batching = Batching(50, local_epochs=2)
    first, second = _of_client(*_plan([50, 50], batching), 0)
    orders = [
        first,
        second,
        _of_client(*_plan([50, 50], batching), 1)[0] - 50,
        _of_client(*_plan([50, 50], batching, seed=1), 0)[0],
        _of_client(*_plan([50, 50], batching, round_index=1), 0)[0],
    ]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_shuffling_is_uniform():
    """Over many rounds each of 5 examples stands equally often at each place."""
    batching = Batching(5)
    counts = np.zeros((5, 5))
    for r in range(2000):
        order = _of_client(*_plan([5], batching, round_index=r), 0)[0]
        counts[np.arange(5), order] += 1
    # Standard deviation of a count is sqrt(2000 * 0.2 * 0.8) = 18.
    assert np.abs(counts - 400).max() < 4.5 * 18


@given(SIZES, st.integers(1, 9), st.floats(0.01, 0.99), st.sampled_from(["weight", "drop"]))
def test_a_share_of_an_epoch_is_that_share_of_the_batches_and_one_at_least(
    sizes, batch_size, share, partial
):
    batching = Batching(batch_size, local_epochs=share, partial_batch=partial)
    whole = batching.steps_per_epoch(sizes)
    expected = [max(round(share * steps), 1) if steps else 0 for steps in whole]
    assert batching.num_steps(sizes).tolist() == expected
    held = [k for k, steps in enumerate(expected) if steps]
    schedule, rows = _plan([sizes[k] for k in held], batching)
    for client in range(len(held)):
        drawn = _of_client(schedule, rows, client)
        taken = drawn[drawn != EMPTY]
        assert len(set(taken.tolist())) == len(taken), "no image comes twice in a round"


def test_shares_of_an_epoch_see_all_images_in_the_end_each_as_often_on_average():
    batching = Batching(2, local_epochs=0.1)
    seen = np.zeros(40, int)
    for round_index in range(2000):
        _, rows = _plan([40], batching, round_index=round_index)
        seen += np.bincount(rows[rows != EMPTY], minlength=40)
    assert seen.sum() == 2000 * 4
    assert (abs(seen - 200) < 5 * np.sqrt(200)).all()


def test_only_full_batches_are_left_where_partial_ones_are_dropped():
    batching = Batching(4, partial_batch="drop")
    schedule, rows = _plan([11, 4], batching)
    assert (rows[rows >= 0].reshape(-1, 4)).shape == (3, 4)
    assert batching.num_steps([3, 4, 11]).tolist() == [0, 1, 2]
    assert schedule.num_steps.sum() == 3


def test_a_fixed_number_of_steps_is_the_same_for_all_and_runs_over_epochs():
    batching = Batching(4, local_epochs=None, local_steps=7)
    schedule, rows = _plan([2, 9, 40], batching)
    assert schedule.num_steps.tolist() == [7, 7, 7]
    small = _of_client(schedule, rows, 0)
    assert all(sorted(row[row >= 0]) == [0, 1] for row in small)
    large = _of_client(schedule, rows, 2)
    assert len(np.unique(large)) == 28


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": 2, "local_steps": 3},
        {"batch_size": 2, "local_epochs": None},
        {"batch_size": 2, "partial_batch": "keep"},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"batch|local"):
        Batching(**wrong)
