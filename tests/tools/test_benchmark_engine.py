"""All sides of the engine's comparison compute the same round, and one that does not is refused."""

import argparse
import os
import py_compile
import sys
import textwrap
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.benchmarks import comparison, engine, sides
from tools.benchmarks.federations import SMALL, make_task, ragged_sizes
from tools.benchmarks.peers.environment import ACCELERATORS
from tools.benchmarks.peers.exchange import Task
from tools.benchmarks.peers.kinds import PEERS
from tools.benchmarks.peers.process import Peer
from ufm_jax.fed.placement import make_placement

ROOT = Path(__file__).resolve().parents[2]

NUMPY_PEER = """
    import sys
    import numpy as np
    from tools.benchmarks.peers.trainer import fastest, serve_trainer

    def sgd(task, w, b, x, y):
        for i in [*range(0, len(y), task.batch_size)] * task.local_epochs:
            xs, ys = x[i : i + task.batch_size], y[i : i + task.batch_size]
            p = np.exp(xs @ w + b)
            p /= p.sum(axis=1, keepdims=True)
            p[np.arange(len(ys)), ys] -= 1
            w = w - task.learning_rate / len(ys) * xs.T @ p
            b = b - task.learning_rate * p.mean(axis=0)
        return w, b

    class LogReg:
        def load(self, task, folder):
            self.task, self.round = task, 0
            self.w, self.b = task.params["out.weight"], task.params["out.bias"]

        def rounds(self, count):
            for _ in range(count):
                task, cohort = self.task, self.task.cohort(self.round)
                ends = [sgd(task, self.w, self.b, *task.client(k)) for k in cohort]
                share = task.sizes[cohort] / task.sizes[cohort].sum()
                self.w, self.b = (sum(p * e[i] for p, e in zip(share, ends)) for i in (0, 1))
                self.round += 1

        def params(self):
            return {"out.weight": self.w * FACTOR, "out.bias": self.b}

        def evaluate(self):
            z = self.task.test_x @ self.w + self.b
            z -= z.max(axis=1, keepdims=True)
            log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
            return -log_p[np.arange(len(z)), self.task.test_y].mean().item() * LOSS

        def tune(self):
            return "numpy, " + fastest(self, ["one way"], lambda way: None)

    serve_trainer(LogReg(), sys.stdout)
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
    """A task, and what ours computes in its first round."""
    task = _small_task(model)
    return task, sides.Ours(task, make_placement(1, 2)).check()


def _evaluated(task):
    """The same with cohorts, epochs and an evaluation."""
    return replace(
        task,
        cohorts=np.array([[0, 2, 5], [1, 2, 3]]),
        local_epochs=3,
        evaluate_every=2,
        evaluate_batch=4,
        test_x=task.x[:8] + 1,
        test_y=task.y[:8],
    )


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
    """Starts a peer that multiplies its results by factors."""

    def start(factor, loss=1.0):
        script = tmp_path / "numpy_peer.py"
        code = textwrap.dedent(NUMPY_PEER).replace("FACTOR", str(factor))
        code = code.replace("LOSS", str(loss))
        script.write_text(code, encoding="utf-8")
        return Peer(Path(sys.executable), script, {**os.environ, "PYTHONPATH": str(ROOT)})

    return start


@pytest.mark.parametrize("model", SMALL)
def test_the_python_loop_agrees_with_ours_for_every_model(model):
    task, ours = _first_round(model)
    theirs = sides.Loop(task).check()
    assert sides.check_agreement("loop", theirs, ours, task.params) < 1e-4


def test_sides_agree_on_cohorts_epochs_and_the_evaluated_loss(numpy_peer, tmp_path):
    task = _evaluated(_small_task("logreg"))
    task.save(tmp_path)
    ours = sides.Ours(task, make_placement(2, 1)).check()
    assert ours.loss > 0
    with numpy_peer(1.0) as peer:
        for side in (sides.Loop(task), sides.PeerSide(peer, tmp_path)):
            assert sides.check_agreement("side", side.check(), ours, task.params) < 1e-4
    everybody = replace(task, cohorts=np.arange(7)[None])
    with pytest.raises(RuntimeError, match="does not compute the same round"):
        sides.check_agreement("all", sides.Loop(everybody).check(), ours, task.params)


def test_sides_are_compared_at_the_rate_for_it_and_timed_at_their_own(numpy_peer, tmp_path):
    task = replace(_small_task("logreg"), learning_rate=0.5)
    slower = replace(task, learning_rate=0.01)
    both = replace(task, compared_rate=0.01)
    both.save(tmp_path)
    expected = sides.Loop(slower).check()
    with numpy_peer(1.0) as peer:
        for side in (sides.Ours(both, make_placement(1, 1)), sides.PeerSide(peer, tmp_path)):
            assert sides.check_agreement("side", side.check(), expected, task.params) < 1e-3
    assert both.compared.learning_rate == 0.01
    assert both.learning_rate == 0.5
    for settled in (task, both.compared):
        assert settled.compared is settled


def test_a_side_that_evaluates_something_else_is_refused(logreg):
    task, ours = logreg
    theirs, ours = ours._replace(loss=1.01), ours._replace(loss=1.0)
    with pytest.raises(RuntimeError, match="pfl does not evaluate the same"):
        sides.check_agreement("pfl", theirs, ours, task.params)


def test_a_side_that_is_one_percent_off_is_refused(logreg):
    task, ours = logreg
    theirs = ours._replace(params={name: 1.01 * value for name, value in ours.params.items()})
    with pytest.raises(RuntimeError, match="pfl does not compute the same round"):
        sides.check_agreement("pfl", theirs, ours, task.params)


def test_a_side_that_trains_nothing_or_is_not_finite_is_refused(logreg):
    task, ours = logreg
    for params in (task.params, {name: value * np.nan for name, value in ours.params.items()}):
        with pytest.raises(RuntimeError, match="its time would mean nothing"):
            sides.check_agreement("pfl", ours._replace(params=params), ours, task.params)


def test_a_peer_gets_the_task_says_how_it_runs_and_times_itself(numpy_peer, logreg, tmp_path):
    task, _ = logreg
    task.save(tmp_path)
    with numpy_peer(1.0) as peer:
        side = sides.PeerSide(peer, tmp_path)
        assert side.prepare() == "numpy, one way"
        assert 0 < side.run(3) < 60


def test_a_wrong_peer_is_never_timed(numpy_peer, monkeypatch):
    monkeypatch.setattr(sides.PeerSide, "run", lambda *_: pytest.fail("it was timed"))
    task = _small_task("logreg")
    with numpy_peer(1.01) as peer, pytest.raises(RuntimeError, match="numpy does not compute"):
        comparison.compare(_options(sides=[]), task, {"numpy": peer}, 1)


def test_measuring_gives_one_row_a_side_with_ours_as_the_measure(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    monkeypatch.setattr(engine, "make_task", partial(make_task, mean_examples=20))
    figures = engine.measure(_options(sides=["loop"]))
    named = [(row["task"], row["clients"], row["side"]) for row in figures.rows]
    assert named == [("logreg", 5, side) for side in ("ours", "loop")]
    for row in figures.rows:
        assert row["from"] <= row["seconds"] <= row["to"]
    assert figures.rows[0]["times ours"] == 1.0
    assert any("logreg, loop: one device" in note for note in figures.notes)


@settings(max_examples=25)
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
@pytest.mark.parametrize("epochs", [1, 2])
def test_in_order_each_client_takes_its_own_examples_from_first_to_last(num_devices, lanes, epochs):
    task = replace(_small_task("logreg"), local_epochs=epochs)
    federation = sides.Federation(
        lambda *_: None,
        sides.fedavg(sides.optax.sgd(1.0)),
        task.offsets,
        sides.Batching(task.batch_size, epochs),
        placement=make_placement(num_devices, lanes),
    )
    plan = federation.plan(0)
    rows = sides.rows_in_order(plan, task)
    assert ((rows >= 0) == (plan.rows >= 0)).all()
    taken = [rows[:, :, lane][rows[:, :, lane] >= 0] for lane in range(lanes)]
    for first, last in zip(task.offsets[:-1], task.offsets[1:], strict=True):
        mine = np.concatenate([part[(part >= first) & (part < last)] for part in taken])
        np.testing.assert_array_equal(mine, np.tile(np.arange(first, last), epochs))


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_task_survives_its_folder(evaluated, tmp_path):
    task = _small_task("mlp")
    task = _evaluated(task) if evaluated else task
    task.save(tmp_path)
    back = Task.load(tmp_path)
    for field in fields(Task):
        expected, value = getattr(task, field.name), getattr(back, field.name)
        jax.tree.map(np.testing.assert_array_equal, value, expected)


def test_examples_of_a_round_count_cohorts_and_epochs():
    task = _evaluated(_small_task("logreg"))
    sizes = task.sizes
    both = sizes[[0, 2, 5]].sum(), sizes[[1, 2, 3]].sum()
    assert task.examples_per_round == 3 * sum(both) / 2


def test_the_same_seed_gives_the_same_task():
    one, two = _small_task("cnn"), _small_task("cnn")
    np.testing.assert_array_equal(one.x, two.x)
    for name, value in one.params.items():
        np.testing.assert_array_equal(value, two.params[name])


@pytest.mark.parametrize("kind", PEERS.values(), ids=list(PEERS))
def test_peers_scripts_compile_and_have_an_environment_for_every_accelerator(kind, tmp_path):
    script = ROOT / "tools" / "benchmarks" / "peers" / kind.script
    py_compile.compile(str(script), cfile=str(tmp_path / "compiled"), doraise=True)
    assert set(kind.requirements) == set(ACCELERATORS.values())
