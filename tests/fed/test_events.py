"""The tables that a device reads run the schedule, in any number of chunks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.fed.events import NOBODY, events, segments
from ufm_jax.fed.schedule import Limits, limits, pack

STEPS = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@given(STEPS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 40))
def test_replaying_the_tables_runs_the_schedule(steps, devices, lanes, chunk):
    schedule = pack(range(len(steps)), steps, num_devices=devices, lanes=lanes)
    bound = limits(steps, len(steps), num_devices=devices, lanes=lanes)
    table = events(schedule, np.ones(len(steps)), np.zeros(len(steps)), bound)
    trained, running = {}, {}
    for begin in range(0, schedule.makespan, chunk):
        end = min(begin + chunk, schedule.makespan)
        todo = segments(schedule, bound, begin, end)
        assert {len(column) for column in todo} == {devices}
        for d in range(devices):
            for e in range(todo.num_segments[d]):
                before, here, after = todo.handovers[d, e : e + 3]
                for h in range(before, here):
                    if (i := int(todo.begins[d, h])) != NOBODY:
                        assert running.setdefault((d, int(todo.lane[d, h])), i) == i
                        trained[d, i] = 0
                for t in range(todo.boundary[d, e], todo.boundary[d, e + 1]):
                    assert begin <= t < end
                    for (device, _), i in running.items():
                        if device == d:
                            assert t == table.first_step[d, i] + trained[d, i]
                            trained[d, i] += 1
                for h in range(here, after):
                    assert running.pop((d, int(todo.lane[d, h]))) == todo.ends[d, h]
    assert not running
    assert {int(table.client[place]): n for place, n in trained.items()} == dict(enumerate(steps))


def test_the_tables_of_one_client():
    schedule, bound = pack([5], [3]), Limits(clients=2, steps=4)
    table = events(schedule, [1.0], [2], bound)
    assert table.client.tolist() == [[5, 0]]
    assert table.slot.tolist() == [[2, 0]]
    assert table.weight.tolist() == [[1.0, 0.0]]
    todo = segments(schedule, bound, 0, 3)
    assert todo.num_segments.tolist() == [1]
    assert todo.boundary.tolist() == [[0, 3, 0, 0]]
    assert todo.handovers.tolist() == [[0, 1, 2, 0, 0]]
    assert (todo.ends[0, :2].tolist(), todo.begins[0, :2].tolist()) == ([NOBODY, 0], [0, NOBODY])


def test_an_empty_round_has_no_handover():
    schedule = pack([], [], lanes=2)
    todo = segments(schedule, Limits(clients=1, steps=4), 0, 0)
    assert todo.handovers.sum() == 0
    assert todo.boundary.sum() == 0
