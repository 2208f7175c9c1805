"""The published comparisons have their authors' shapes, and peers that are missing say why."""

import argparse
import math
import pickle
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from tools.benchmarks import models, sides, standard_tasks
from tools.benchmarks.federations import make_task
from tools.benchmarks.models import MODELS, init_params, losses
from tools.benchmarks.peers import environment, kinds, trainer
from tools.benchmarks.peers.environment import (
    EnvironmentMissingError,
    find_python,
    make_environment,
)
from tools.benchmarks.standard_tasks import STANDARDS, Cifar, read_cifar
from ufm_jax.errors import DataError
from ufm_jax.fed.placement import make_placement

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def cifar():
    """As many pictures as CIFAR-10 has, each of one number: its row."""
    x = np.zeros((60_000, 1), np.float32)
    x[:, 0] = np.arange(60_000)
    y = np.random.default_rng(1).integers(0, 10, 60_000).astype(np.int32)
    return Cifar(x[:50_000], y[:50_000], x[50_000:], y[50_000:], "")


@pytest.mark.parametrize(("model", "count"), [("pfl_cnn", 1_626_442), ("blazefl_cnn", 62_006)])
def test_models_have_as_many_parameters_as_their_authors(model, count):
    params = init_params(MODELS[model].shapes, RNG)
    assert sum(value.size for value in params.values()) == count


@pytest.mark.parametrize("name", STANDARDS)
def test_every_image_belongs_to_one_client_and_keeps_its_label(cifar, name):
    task = STANDARDS[name].make(cifar)
    np.testing.assert_array_equal(np.sort(task.x[:, 0]), np.arange(50_000))
    np.testing.assert_array_equal(task.y, cifar.y[task.x[:, 0].astype(int)])
    assert task.offsets[-1] == 50_000
    assert not (task.sizes % task.batch_size).any()
    assert not len(task.test_y) % task.evaluate_batch


def test_pfl_s_users_are_equal_and_a_cohort_has_fifty_of_them(cifar):
    task = STANDARDS["pfl"].make(cifar)
    assert task.sizes.tolist() == [50] * 1000
    assert all(len(set(task.cohort(r))) == 50 for r in range(200))
    assert task.cohort(0) != task.cohort(1)
    assert (task.batch_size, task.local_epochs, task.dropout) == (10, 1, True)
    assert [r for r in range(1, 31) if task.evaluates(r)] == [10, 20, 30]


def test_blazefl_s_clients_have_two_shards_and_so_few_labels(cifar):
    task = STANDARDS["blazefl"].make(cifar)
    assert task.sizes.tolist() == [500] * 100
    assert task.cohort(3) == list(range(100))
    labels = [len(set(task.client(k)[1].tolist())) for k in range(100)]
    assert max(labels) <= 4  # Two shards, each of which crosses one border of labels at most.
    assert np.mean(labels) < 3
    assert (task.batch_size, task.local_epochs) == (50, 5)


def _write_pickles(folder, x, y):
    folder.mkdir()
    batches = {f"data_batch_{i + 1}": slice(2 * i, 2 * i + 2) for i in range(5)}
    for name, rows in (batches | {"test_batch": slice(10, 12)}).items():
        data = x[rows].transpose(0, 3, 1, 2).reshape(2, -1)
        content = {"data": data, "labels": y[rows].tolist()}
        (folder / name).write_bytes(pickle.dumps(content))


def _write_arrays(folder, x, y):
    folder.mkdir(exist_ok=True)
    for part, rows in (("train", slice(10)), ("test", slice(10, 12))):
        np.save(folder / f"x_{part}.npy", x[rows])
        np.save(folder / f"y_{part}.npy", y[rows])


@pytest.fixture
def twelve(monkeypatch):
    """A dozen pictures, as if CIFAR-10 had no more."""
    monkeypatch.setattr(standard_tasks, "TRAIN", 10)
    monkeypatch.setattr(standard_tasks, "TEST", 2)
    rng = np.random.default_rng(2)
    return rng.integers(0, 256, (12, 32, 32, 3), np.uint8), rng.integers(0, 10, 12)


def test_pickles_and_numpy_files_give_the_same_normalised_pictures(twelve, tmp_path):
    _write_pickles(tmp_path / "cifar-10-batches-py", *twelve)
    _write_arrays(tmp_path / "numpy", *twelve)
    one, two = read_cifar(tmp_path), read_cifar(tmp_path / "numpy")
    for a, b in zip(one[:4], two[:4], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(one.x.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(one.x.std(axis=(0, 1, 2)), 1, rtol=1e-5)
    np.testing.assert_array_equal(np.r_[one.y, one.test_y], twelve[1])


def test_a_folder_without_cifar_or_with_something_else_is_refused(twelve, tmp_path):
    with pytest.raises(DataError, match="data_batch_1 cannot be read"):
        read_cifar(tmp_path)
    _write_pickles(tmp_path / "pickles", *twelve)
    (tmp_path / "pickles" / "data_batch_3").write_bytes(b"nothing")
    with pytest.raises(DataError, match="data_batch_3 cannot be read"):
        read_cifar(tmp_path / "pickles")
    x, y = twelve
    for pictures, labels in ((x[:, :16], y), (x, y + 5)):
        _write_arrays(tmp_path / "numpy", pictures, labels)
        with pytest.raises(DataError, match="are not CIFAR-10"):
            read_cifar(tmp_path / "numpy")
    (tmp_path / "numpy" / "y_test.npy").unlink()
    with pytest.raises(DataError, match=r"x_test.npy and y_test.npy cannot be read"):
        read_cifar(tmp_path / "numpy")


@pytest.mark.parametrize("name", ["cnn", "pfl_cnn", "blazefl_cnn"])
def test_products_give_what_convolutions_give_with_the_same_gradients(name):
    params = {n: v + 0.1 for n, v in init_params(MODELS[name].shapes, RNG).items()}
    shape = (3, 784) if name == "cnn" else (3, 32, 32, 3)
    batch = {"x": RNG.standard_normal(shape, np.float32), "y": np.arange(3)}

    @jax.jit
    def gradients(params):
        return [
            jax.value_and_grad(lambda p, f=f: losses(f, p, batch).mean())(params)
            for f in (MODELS[name].forward, partial(MODELS[name].network, products=False))
        ]

    (loss, ours), (expected, theirs) = gradients(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    scale = max(float(abs(leaf).max()) for leaf in theirs.values())
    for leaf in theirs:
        np.testing.assert_allclose(ours[leaf], theirs[leaf], rtol=1e-3, atol=1e-5 * scale)


def test_dropout_keeps_its_share_and_the_mean_and_acts_with_a_key_alone():
    ones = np.ones((100, 1000), np.float32)
    for rate in (0.25, 0.5):
        dropped = np.asarray(models._dropout(jax.random.key(3), ones, rate))
        assert (dropped == 0).mean() == pytest.approx(rate, abs=0.01)
        assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / (1 - rate))}
    assert models._dropout(None, ones, 0.5) is ones


@pytest.mark.parametrize(("long", "rounds"), [(math.inf, 6), (0.0, 3)])
def test_the_fastest_way_is_chosen_after_two_rounds_of_each_or_one_where_they_are_long(
    long, rounds, monkeypatch
):
    way, asked = "", []

    def choose(name):
        nonlocal way
        way = name

    def seconds(_, count):
        asked.append(count)
        return {"a": 3.0, "b": 1.0, "c": 2.0}[way]

    monkeypatch.setattr(trainer, "_LONG", long)
    monkeypatch.setattr(trainer, "_seconds", seconds)
    assert trainer.fastest(None, ("a", "b", "c"), choose) == way == "b"
    assert asked == [1] * rounds


def test_a_peer_without_its_python_is_left_out_by_a_note_and_others_go_on(monkeypatch, capsys):
    def find(least):
        if least > (3, 13):
            raise EnvironmentMissingError(f"no Python {least}")
        return Path(sys.executable)

    started = []
    monkeypatch.setattr(kinds, "find_python", find)
    monkeypatch.setattr(kinds, "make_environment", lambda name, *_: Path(sys.executable))
    monkeypatch.setattr(kinds, "Peer", lambda *_: _Nothing(started))
    with kinds.running_peers(["blazefl", "pfl"], "cpu") as (peers, notes):
        assert list(peers) == ["pfl"]
        assert notes == ("blazefl is left out: no Python (3, 14).",)
    assert notes[0] in capsys.readouterr().out
    assert started == ["entered", "left"]


class _Nothing:
    """A context that says when it is entered and left."""

    def __init__(self, events):
        self._events = events

    def __enter__(self):
        self._events.append("entered")
        return self

    def __exit__(self, *_):
        self._events.append("left")


def test_pythons_are_tried_newest_first_and_those_that_do_not_run_are_passed_over(
    monkeypatch, tmp_path
):
    assert find_python((3, 9)) == Path(sys.executable)
    for name, code in (("python3.28", "exit 1"), ("python3.27t", f'exec {sys.executable} "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_python((3, 25)).name == "python3.27t"
    with pytest.raises(EnvironmentMissingError, match=r"it needs Python 3.29, and none was found"):
        find_python((3, 29))


def test_pip_s_failure_is_one_line(monkeypatch, tmp_path):
    def run(command, **_):
        failed = "pip" in command
        return argparse.Namespace(
            returncode=int(failed), stdout="3.11", stderr="WARNING: a\nERROR: b\nERROR: c\nnote"
        )

    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setattr(environment, "cache_folder", lambda: tmp_path)
    with pytest.raises(
        EnvironmentMissingError, match=r"pip install --quiet what failed: ERROR: c$"
    ):
        make_environment("name", ["what"])


def _dropping(params, x, key, products):
    """A dense layer behind dropout."""
    del products
    return models._dropout(key, x, 0.5) @ params["out.weight"]


@pytest.mark.parametrize("side", [sides.Loop, lambda task: sides.Ours(task, make_placement(2, 1))])
def test_dropout_is_in_the_timed_rounds_and_not_in_the_round_that_is_compared(side, monkeypatch):
    model = models.Model({"out.weight": (784, 62)}, _dropping)
    monkeypatch.setitem(MODELS, "logreg", model)
    task = make_task("logreg", clients=4, batch_size=4, mean_examples=8)
    calls = []
    monkeypatch.setattr(models, "_dropout", _counted(models._dropout, calls))
    with_dropout = side(replace(task, dropout=True))
    compared = with_dropout.check().params
    assert calls
    assert all(key is None for key in calls)
    np.testing.assert_array_equal(compared["out.weight"], side(task).check().params["out.weight"])
    calls.clear()
    with_dropout.prepare()
    assert calls
    assert all(key is not None for key in calls)


def _counted(function, keys):
    def run(key, *others):
        keys.append(key)
        return function(key, *others)

    return run
