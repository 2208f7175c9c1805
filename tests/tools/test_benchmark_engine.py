"""All sides of the engine's comparison compute the same round, and one that does not is refused."""

import argparse
import os
import py_compile
import sys
import textwrap
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.benchmarks import engine, sides
from tools.benchmarks.federations import MODELS, make_task, ragged_sizes
from tools.benchmarks.peers.exchange import Task
from tools.benchmarks.peers.process import Peer
from ufm_jax.fed.placement import make_placement

ROOT = Path(__file__).resolve().parents[2]

NUMPY_PEER = """
    import sys
    import numpy as np
    from tools.benchmarks.peers.exchange import Task
    from tools.benchmarks.peers.process import serve

    def sgd(task, w, b, x, y):
        for i in range(0, len(y), task.batch_size):
            xs, ys = x[i : i + task.batch_size], y[i : i + task.batch_size]
            p = np.exp(xs @ w + b)
            p /= p.sum(axis=1, keepdims=True)
            p[np.arange(len(ys)), ys] -= 1
            w = w - task.learning_rate / len(ys) * xs.T @ p
            b = b - task.learning_rate * p.mean(axis=0)
        return w, b

    class Side:
        def load(self, file):
            self.task = Task.load(file)
            return {}

        def first_round(self, file):
            task = self.task
            w, b = task.params["out.weight"], task.params["out.bias"]
            ends = [sgd(task, w, b, x, y) for x, y in task.clients]
            share = task.sizes / task.sizes.sum()
            w, b = (sum(p * e[i] for p, e in zip(share, ends)) for i in (0, 1))
            np.savez(file, **{"out.weight": w * FACTOR, "out.bias": b})
            return {"note": "numpy"}

        def run(self, rounds):
            return {"seconds": 2.0 * rounds}

    side = Side()
    serve({"load": side.load, "first_round": side.first_round, "run": side.run}, sys.stdout)
"""


def _small_task(model):
    """Clients of one to several batches."""
    task = make_task(model, clients=7, batch_size=4, mean_examples=30)
    assert len(set(task.sizes)) > 2
    return task


def _options(**changes):
    parser = argparse.ArgumentParser()
    engine.add_options(parser)
    parser.set_defaults(repeats=2)
    options = parser.parse_args(["--model=logreg", "--clients", "5", "--rounds=1"])
    return argparse.Namespace(**vars(options) | changes)


def _first_round(model):
    """A task in our order, and our parameters after its first round."""
    ours = sides.Ours(_small_task(model), make_placement(1, 2))
    return ours.task, ours.first_round()


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling takes most of these tests' time, and nothing here runs long."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def logreg():
    return _first_round("logreg")


@pytest.fixture
def numpy_peer(tmp_path):
    """Starts a peer that multiplies its result by a factor."""

    def start(factor):
        script = tmp_path / "numpy_peer.py"
        code = textwrap.dedent(NUMPY_PEER).replace("FACTOR", str(factor))
        script.write_text(code, encoding="utf-8")
        return Peer(Path(sys.executable), script, {**os.environ, "PYTHONPATH": str(ROOT)})

    return start


@pytest.mark.parametrize("model", MODELS)
def test_the_python_loop_agrees_with_ours_for_every_model(model):
    task, params = _first_round(model)
    theirs = sides.Loop(task).first_round()
    assert sides.check_agreement("loop", theirs, params, task.params) < 1e-4


def test_a_side_that_is_one_percent_off_is_refused(logreg):
    task, params = logreg
    theirs = {name: 1.01 * value for name, value in params.items()}
    with pytest.raises(RuntimeError, match="pfl does not compute the same round"):
        sides.check_agreement("pfl", theirs, params, task.params)


def test_a_side_that_trains_nothing_or_is_not_finite_is_refused(logreg):
    task, params = logreg
    for theirs in (task.params, {name: value * np.nan for name, value in params.items()}):
        with pytest.raises(RuntimeError, match="its time would mean nothing"):
            sides.check_agreement("pfl", theirs, params, task.params)


def test_a_peer_gets_the_task_and_is_compared_over_files(numpy_peer, logreg):
    task, params = logreg
    with numpy_peer(1.0) as peer, sides.peer_side(peer, task) as side:
        assert sides.check_agreement("numpy", side.first_round(), params, task.params) < 1e-4
        assert side.note == "numpy"
        assert side.run(3) == 6.0


def test_a_wrong_peer_is_never_timed(numpy_peer, monkeypatch):
    monkeypatch.setattr(sides.PeerSide, "run", lambda *_: pytest.fail("it was timed"))
    task = _small_task("logreg")
    with numpy_peer(1.01) as peer, pytest.raises(RuntimeError, match="numpy does not compute"):
        engine.measure_task(_options(sides=[]), task, {"numpy": peer})


def test_measuring_gives_one_row_a_side_with_ours_as_the_measure(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    monkeypatch.setattr(engine, "make_task", partial(make_task, mean_examples=20))
    figures = engine.measure(_options(sides=["loop"]))
    named = [(row["model"], row["clients"], row["side"]) for row in figures.rows]
    assert named == [("logreg", 5, side) for side in ("ours", "loop")]
    for row in figures.rows:
        assert row["from"] <= row["seconds"] <= row["to"]
    assert figures.rows[0]["times ours"] == 1.0
    assert any("logreg, loop: one device" in note for note in figures.notes)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 50), st.integers(1, 64), st.integers(0, 9))
def test_every_client_has_whole_batches_and_at_least_one(clients, batch_size, seed):
    rng = np.random.default_rng(seed)
    sizes = ragged_sizes(clients, batch_size, rng, mean_examples=30)
    assert sizes.shape == (clients,)
    assert (sizes % batch_size == 0).all()
    assert (sizes >= batch_size).all()


def test_sizes_are_log_normal_with_the_mean_asked_for():
    sizes = ragged_sizes(20_000, 1, np.random.default_rng(0), mean_examples=1000)
    assert sizes.mean() == pytest.approx(1000, rel=0.05)
    assert np.log(sizes).std() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(("num_devices", "lanes"), [(1, 1), (2, 3)])
def test_other_sides_get_each_clients_own_examples_in_our_order(num_devices, lanes):
    task = _small_task("logreg")
    theirs = sides.Ours(task, make_placement(num_devices, lanes)).task
    assert not np.array_equal(theirs.x, task.x)
    for (x, y), (u, v) in zip(task.clients, theirs.clients, strict=True):
        before, after = (
            [(*row, label) for row, label in zip(*p, strict=True)] for p in ((x, y), (u, v))
        )
        assert sorted(before) == sorted(after)


def test_a_task_survives_its_file(tmp_path):
    task = _small_task("mlp")
    task.save(tmp_path / "task.npz")
    back = Task.load(str(tmp_path / "task.npz"))
    assert (back.model, back.batch_size, back.learning_rate) == ("mlp", 4, task.learning_rate)
    for field in ("x", "y", "offsets"):
        np.testing.assert_array_equal(getattr(back, field), getattr(task, field))
    assert back.params.keys() == task.params.keys()
    for name, value in task.params.items():
        np.testing.assert_array_equal(back.params[name], value)


def test_the_same_seed_gives_the_same_task():
    one, two = _small_task("cnn"), _small_task("cnn")
    np.testing.assert_array_equal(one.x, two.x)
    for name, value in one.params.items():
        np.testing.assert_array_equal(value, two.params[name])


@pytest.mark.parametrize("kind", sides.PEERS.values(), ids=list(sides.PEERS))
def test_peers_scripts_compile_and_have_an_environment_for_every_accelerator(kind, tmp_path):
    script = ROOT / "tools" / "benchmarks" / "peers" / kind.script
    py_compile.compile(str(script), cfile=str(tmp_path / "compiled"), doraise=True)
    assert set(kind.requirements) == set(engine.ACCELERATORS.values())
