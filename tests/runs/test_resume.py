"""What is saved inside a round is taken where it is newest and whole, and left behind otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm_jax.cluster.witness import UNFINISHED
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.runs.resume import Point, RunCheckpoints


@pytest.fixture(scope="module")
def beginning():
    federation = Federation(
        lambda params, batch, keys: (params["w"] - batch["x"]) ** 2,
        fedavg(optax.sgd(0.1)),
        [0, 4],
        Batching(2),
    )
    return federation.init({"w": jnp.ones(2)})


def at(beginning, done, step):
    """A point with numbers that tell it apart."""
    number = 10 * done + step
    state = jax.tree.map(lambda leaf: jnp.full_like(leaf, number), beginning)
    return Point(done, step, state if step else state._replace(training=beginning.training), {})


def save(workdir, beginning, *points):
    with RunCheckpoints(workdir) as checkpoints:
        for point in points:
            checkpoints.save(at(beginning, *point), 1.0)


def newest(workdir, beginning):
    with RunCheckpoints(workdir) as checkpoints:
        return checkpoints.newest(beginning)


@pytest.mark.parametrize("points", [[(1, 0), (1, 3)], [(1, 0), (2, 0)], [(0, 3)], [(1, 3), (1, 5)]])
def test_the_newest_point_is_found_with_all_that_it_holds(tmp_path, beginning, points):
    save(tmp_path, beginning, *points)
    found, expected = newest(tmp_path, beginning), at(beginning, *points[-1])
    assert (found.done, found.step) == points[-1]
    jax.tree.map(np.testing.assert_array_equal, found.state, expected.state)


def test_a_later_round_leaves_nothing_of_an_unfinished_one(tmp_path, beginning):
    save(tmp_path, beginning, (1, 0), (1, 3))
    assert (tmp_path / UNFINISHED).is_dir()
    save(tmp_path, beginning, (2, 0))
    assert not list(tmp_path.glob(f"{UNFINISHED}*"))


def test_a_damaged_unfinished_round_is_begun_anew_with_a_warning(tmp_path, beginning, caplog):
    save(tmp_path, beginning, (1, 0), (1, 3))
    for file in (tmp_path / UNFINISHED).rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    found = newest(tmp_path, beginning)
    assert (found.done, found.step) == (1, 0)
    assert "going on after 1 whole rounds" in caplog.text
    save(tmp_path, beginning, (1, 5))
    assert newest(tmp_path, beginning).step == 5
