"""Which frames of a clip are taken."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.data.scans.frames import check_frames, chosen_frames, different
from ufm_jax.errors import DataError


@given(st.integers(1, 3000), st.integers(1, 50))
def test_frames_are_ascending_numbers_of_the_clip_at_equal_distances(count, number):
    for choice in ("all", "different", f"every:{number}", f"evenly:{number}"):
        found = chosen_frames(choice, count)
        assert found == sorted(set(found))
        assert 0 <= found[0] <= found[-1] < count
    assert len(chosen_frames("all", count)) == count
    assert np.diff(chosen_frames(f"every:{number}", count)).tolist() == [number] * (
        -(-count // number) - 1
    )
    evenly = chosen_frames(f"evenly:{number}", count)
    assert len(evenly) == min(number, count)
    assert np.ptp(np.diff(evenly)) <= 1 if len(evenly) > 1 else evenly == [count // 2]


@pytest.mark.parametrize("choice", ["", "some", "every:0", "every:", "evenly:-1", "every:2.5"])
def test_other_choices_are_refused(choice):
    with pytest.raises(DataError, match=r"use 'all', 'different', 'every:N'"):
        check_frames(choice)


def test_a_still_clip_gives_one_frame_and_a_moving_one_each_that_moved():
    def clip(levels):
        return [(i, np.full((48, 64, 3), level, np.uint8)) for i, level in enumerate(levels)]

    assert [i for i, _ in different(clip([50] * 30))] == [0]
    # Slow drift is noticed against the frame last taken, not against the neighbour.
    assert [i for i, _ in different(clip(range(0, 20, 2)))] == [0, 2, 4, 6, 8]
    assert [i for i, _ in different(clip([0, 100, 0, 100]))] == [0, 1, 2, 3]
