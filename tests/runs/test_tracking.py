"""What trackers outside the run's folder are told: numbers and choices, and no name of a client."""

import dataclasses
import math
import typing
from types import SimpleNamespace

import pytest

from tests.runs.records import CLIENT, record
from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.config.pretraining import PretrainConfig
from ufm_jax.config.schema import flatten, without_text
from ufm_jax.data.settings import PretrainingSettings
from ufm_jax.errors import ConfigError
from ufm_jax.runs import tracking
from ufm_jax.runs.history import MetricWriter
from ufm_jax.runs.trackers.tracker import read_id, write_id
from ufm_jax.runs.tracking import check_trackers, scalars, trackers
from ufm_jax.train import run


@dataclasses.dataclass(frozen=True)
class Nested:
    path: str = "/home/x"
    count: int = 3


@dataclasses.dataclass(frozen=True)
class Settings:
    nested: Nested = Nested()
    choice: typing.Literal["a", "b"] = "a"
    several: tuple[typing.Literal["a", "b"], ...] = ("b",)
    pair: tuple[typing.Annotated[float, "limits"], float] = (0.5, 1.0)
    words: tuple[typing.Annotated[str, "limits"], ...] = ("x",)
    either: typing.Literal["auto", 1] = 1


def test_keys_that_take_free_text_are_left_out():
    assert without_text(Settings()) == {
        "config.nested.count": 3,
        "config.choice": "a",
        "config.several": ("b",),
        "config.pair": (0.5, 1.0),
        "config.either": 1,
    }


@pytest.mark.parametrize("cls", [PretrainConfig, FinetuneConfig])
def test_values_that_decide_a_run_are_told_and_its_paths_are_not(cls):
    told = without_text(cls())
    assert told.items() <= flatten(cls()).items()
    assert {
        "config.seed",
        "config.federation.rounds",
        "config.client_optimizer.name",
    } <= told.keys()
    paths = ("root", "cache_dir", "weights", "trace", "coordinator", "store", "lists", "index")
    assert not [key for key in told if key.rpartition(".")[2] in paths]


def test_a_client_is_called_as_asked_and_what_is_not_finite_is_left_out():
    other = dataclasses.replace(CLIENT, client="mueller, anna", loss=math.inf)
    one = record(0, clients=[CLIENT, other], held_out={"mueller, anna": 0.25}, loss=math.nan)
    found = scalars(one, {"turin": "0", "mueller, anna": "1"}.__getitem__)
    assert found["client/0/loss"] == 0.5
    assert found["client/1/held_out_loss"] == 0.25
    assert found["client/1/steps"] == 2
    assert not {"client/1/loss", "round/loss"} & found.keys()
    assert "anna" not in str(found)


class Told:
    """A tracker that keeps what it is told."""

    next_round = 0

    def __init__(self, told):
        self.told, self.rounds = told, {}
        TOLD.append(self)

    def write(self, round_number, values):
        self.rounds[round_number] = values

    def close(self, finished):
        self.rounds["finished"] = finished


TOLD: list[Told] = []


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(tracking, "_OUTSIDE", {"wandb": Told})
    TOLD.clear()
    return TOLD


def test_it_hears_the_rounds_of_the_history_first(tmp_path, told):
    config = PretrainConfig(tracking=("wandb",), tracking_project="p", name="title")
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(record(0))
    with trackers(config, tmp_path, 1, ["oslo", "turin"]) as (take,):
        take(record(1))
    (tracker,) = told
    assert list(tracker.rounds) == [0, 1, "finished"]
    assert tracker.rounds[0] == tracker.rounds[1] | {"round/loss": 1.0}
    assert tracker.rounds[0]["client/1/loss"] == 0.5
    assert (tracker.told.title, tracker.told.project) == ("title", "p")
    assert tracker.told.settings == without_text(config)
    assert tracker.rounds["finished"]


def test_an_error_in_training_is_told(tmp_path, told):
    config = PretrainConfig(tracking=("wandb",))
    with pytest.raises(ZeroDivisionError), trackers(config, tmp_path, 0, []):
        raise ZeroDivisionError
    assert told[0].rounds == {"finished": False}


@pytest.mark.parametrize(("done", "kept"), [(0, ""), (1, "abc")])
def test_a_run_that_starts_anew_has_a_new_record(tmp_path, told, done, kept):
    write_id(tmp_path, "wandb", "abc")
    with trackers(PretrainConfig(tracking=("wandb",)), tmp_path, done, []):
        assert read_id(tmp_path, "wandb") == kept


def test_a_store_is_what_was_configured_or_the_environment_says_or_lies_beside(
    tmp_path, told, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workdir = tmp_path / "runs" / "a"

    def store(**keys):
        with trackers(PretrainConfig(tracking=("wandb",), **keys), workdir, 0, []):
            pass
        return told[-1].told.store

    assert store() == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert store() == "http://there"
    assert store(tracking_store="http://here") == "http://here"


@pytest.mark.parametrize("found", [None, SimpleNamespace(origin=None)], ids=["no", "a folder"])
@pytest.mark.parametrize(
    ("name", "package", "store"),
    [
        ("mlflow", "mlflow", "http://127.0.0.1:5000"),
        ("mlflow", "sqlalchemy", "sqlite:///mlflow.db"),
        ("wandb", "wandb", ""),
    ],
)
def test_a_package_that_is_not_installed_is_refused_with_the_remedy(
    tmp_path, monkeypatch, name, package, store, found
):
    there = dict.fromkeys(
        ("mlflow", "sqlalchemy", "alembic", "wandb"), SimpleNamespace(origin="x.py")
    )
    monkeypatch.setattr(tracking, "find_spec", (there | {package: found}).get)
    config = PretrainConfig(tracking=(name,), tracking_store=store)
    remedy = rf"{package} is not installed: pip install 'ufm-jax\[tracking\]'"
    with pytest.raises(ConfigError, match=remedy):
        check_trackers(config, tmp_path)
    check_trackers(PretrainConfig(), tmp_path)


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        ("runs/store", "tracking_store='runs/store': give an address"),
        ("http://anna:secret@there", "set MLFLOW_TRACKING_URI in its place"),
    ],
)
def test_a_store_that_is_a_folder_or_holds_a_password_is_refused(tmp_path, store, problem):
    config = PretrainConfig(tracking=("mlflow",), tracking_store=store)
    with pytest.raises(ConfigError, match=problem) as refused:
        check_trackers(config, tmp_path)
    assert "secret" not in str(refused.value)


def test_a_process_that_writes_no_metrics_has_no_tracker(tmp_path, monkeypatch, told):
    monkeypatch.setattr(run.hosts, "is_first", lambda: False)
    config = PretrainConfig(tracking=("tensorboard", "wandb"), data=PretrainingSettings())
    with run._sinks(config, tmp_path, 0, 5, ["a"]) as sinks:
        assert not sinks.records
    assert not told
    assert not list(tmp_path.iterdir())
