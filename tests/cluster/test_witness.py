"""The last words name the place where the same command goes on."""

import pytest

from ufm_jax.cluster.witness import CHECKPOINTS, STEPS, UNFINISHED, resume_point


@pytest.mark.parametrize(
    ("rounds", "inside", "expected"),
    [
        ((), (), "it begins anew"),
        (("2", "3", "4.orbax-checkpoint-tmp"), (), "it goes on after round 3"),
        (("3",), (3 * STEPS + 8,), "it goes on after round 3, at step 8 of the next"),
        (("3",), (2 * STEPS + 8,), "it goes on after round 3"),
        ((), (5,), "it goes on after round 0, at step 5 of the next"),
    ],
)
def test_the_newest_complete_checkpoint_is_named(tmp_path, rounds, inside, expected):
    for folder, names in ((CHECKPOINTS, rounds), (UNFINISHED, inside)):
        for name in names:
            (tmp_path / folder / str(name)).mkdir(parents=True)
    assert resume_point(tmp_path) == expected
