"""MLflow: a store holds each round of a run once, whatever happens, and no name of anybody."""

import dataclasses
import sqlite3
from contextlib import closing

import pytest

from tests.runs.records import CLIENT, record
from tests.runs.trackers.private import CLIENTS, as_user, assert_tells_nobody, private_config
from ufm_jax.runs.history import MetricWriter
from ufm_jax.runs.trackers.tracker import read_id, write_id
from ufm_jax.runs.tracking import trackers

mlflow = pytest.importorskip("mlflow", reason="pip install 'ufm-jax[tracking]'")
pytest.importorskip("sqlalchemy", reason="pip install 'ufm-jax[tracking]'")


def train(workdir, config, first, last, clients=CLIENTS, error=None):
    """Rounds from ``first`` on, and then ``error``, if one is given."""
    found = [dataclasses.replace(CLIENT, client=name) for name in clients]
    probe = {"benign, ../x": {"knn_auroc": 0.75}}
    with (
        MetricWriter(workdir, first) as writer,
        trackers(config, workdir, first, clients) as (take,),
    ):
        for one in (record(r, clients=found, probe=probe) for r in range(first, last)):
            writer.write(one)
            take(one)
        if error:
            raise error


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run that was stopped by an error and went on."""
    place = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        as_user(patch)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        config = private_config(place, "mlflow")
        with pytest.raises(InterruptedError):
            train(place / "run", config, 0, 3, error=InterruptedError)
        train(place / "run", config, 2, 5)
    return place


@pytest.fixture
def client(place):
    return mlflow.MlflowClient(f"sqlite:///{place}/mlflow.db")


def test_a_run_that_goes_on_has_one_record_with_each_round_once(place, client):
    experiment = client.get_experiment_by_name("ufm_jax")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == read_id(place / "run", "mlflow")
    assert (run.info.run_name, run.info.status) == ("pretrain", "FINISHED")
    losses = client.get_metric_history(run.info.run_id, "round/loss")
    assert sorted((m.step, m.value) for m in losses) == [(r, 1 / (r + 1)) for r in range(5)]
    assert run.data.metrics["client/1/steps"] == 2
    assert run.data.metrics["probe/benign_ __/x/knn_auroc"] == 0.75
    assert run.data.params["config.data.source"] == "folders"
    assert run.data.params["config.client_optimizer.betas"] == "(0.9, 0.95)"


def test_it_tells_nobody_who_trained_on_what_and_where(place):
    with closing(sqlite3.connect(place / "mlflow.db")) as store:
        assert_tells_nobody("\n".join(store.iterdump()), place)


def test_a_store_that_does_not_know_the_run_gets_all_of_it(place, client):
    config, workdir = private_config(place, "mlflow"), place / "moved"
    train(workdir, config, 0, 2)
    write_id(workdir, "mlflow", "0" * 32)
    train(workdir, config, 2, 3)
    held = client.get_metric_history(read_id(workdir, "mlflow"), "round/loss")
    assert sorted(metric.step for metric in held) == [0, 1, 2]


def test_a_round_of_which_a_part_arrived_is_sent_again_until_it_is_whole(
    place, client, monkeypatch
):
    names = [str(number) for number in range(600)]
    log_batch, requests = mlflow.MlflowClient.log_batch, []

    def fail_second(self, run, metrics=(), params=()):
        requests.extend(metrics[:1])
        if len(requests) == 2:
            raise OSError
        log_batch(self, run, metrics=metrics, params=params)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fail_second)
    for first, last in ((0, 1), (1, 2)):
        train(place / "large", private_config(place, "mlflow"), first, last, clients=names)
    run = read_id(place / "large", "mlflow")
    assert len(requests) > 2
    for number in (0, 300, 599):
        history = client.get_metric_history(run, f"client/{number}/steps")
        assert {metric.step for metric in history} == {0, 1}
