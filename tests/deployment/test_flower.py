"""The real thing: TLS, sites that prove themselves, and Flower's own processes, on this machine.

It needs `pip install 'ufm-jax[deploy]'`, and takes minutes: each message starts a process.
"""

import importlib.util
import re

import pytest

from tests.deployment.small_study import (
    FEDADAM,
    SCAFFOLD,
    SGD,
    SITES,
    relative_error,
    simulated,
    write_images,
)
from tests.deployment.trial import Trial
from ufm_jax.runs.checkpoint import load_params
from ufm_jax.runs.history import read_history

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("flwr"), reason="Flower needs ufm-jax[deploy]"),
]
RESET = {"federation.client_state": "reset"}
MINUTES = 15


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    (folder / "images").mkdir()
    write_images(folder / "images")
    with Trial(folder, folder / "images", SITES) as trial:
        yield trial


@pytest.fixture(autouse=True)
def sites_end(trial):
    yield
    trial.stop_sites()


class Started:
    """A study that runs."""

    def __init__(self, trial, name, keys, **settings):
        self.trial, self.keys = trial, keys
        self.app, self.workdir = trial.app(name, keys), trial.folder / f"{name}_server"
        self.settings = {"workdir": str(self.workdir), "timeout": 120.0} | settings
        for site in SITES:
            trial.start_site(site, self.app / "study.json")
        self.run()

    def run(self):
        values = [
            f'{k}="{v}"' if isinstance(v, str) else f"{k}={v}" for k, v in self.settings.items()
        ]
        self.trial.flwr("run", self.app, "trial", "--run-config", " ".join(values))

    def wait_for_round(self, number):
        self.trial.wait(
            lambda: len(read_history(self.workdir)) >= number, 60 * MINUTES, f"round {number}"
        )

    def end(self):
        """The error of the parameters, against the simulation."""
        done = self.workdir / "model.sha256"
        self.trial.wait(done.exists, 60 * MINUTES, "the model")
        self.trial.stop_sites()
        known = simulated(self.trial.images, self.trial.folder / self.app.name / "run", self.keys)
        return relative_error(load_params(self.workdir / "model"), known)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("fedavg", SGD | RESET),
        ("fedadam", FEDADAM | RESET),
        ("secure", SGD | RESET | {"federation.aggregation.rule": "secure_sum"}),
    ],
)
def test_a_study_over_flower_gives_the_parameters_of_its_simulation(trial, name, keys):
    study = Started(trial, name, keys)
    assert study.end() < 1e-6
    records = read_history(study.workdir)
    assert [record.cohort for record in records] == [3, 3, 3]
    print(name, [(r.bytes_down, r.bytes_up, round(r.seconds, 1)) for r in records])


def test_a_site_and_the_server_may_be_killed(trial):
    """SCAFFOLD, whose sites keep a state: a site is killed in round 1, the server in round 2."""
    study = Started(trial, "scaffold", SGD | SCAFFOLD)
    study.wait_for_round(1)
    trial.kill("B")
    trial.start_site("B", study.app / "study.json")
    study.wait_for_round(2)
    trial.kill("superlink")
    trial.start_superlink()
    study.run()
    assert study.end() < 1e-6


def test_a_site_with_another_study_is_refused_in_one_line(trial):
    study = trial.app("right", SGD | RESET) / "study.json"
    wrong = trial.app("wrong", SGD | RESET | {"federation.batch_size": 2}) / "study.json"
    for site in SITES:
        trial.start_site(site, wrong if site == "B" else study)
    workdir = f'workdir="{trial.folder / "refused"}"'
    started = trial.flwr("run", study.parent, "trial", "--run-config", workdir)
    number = re.search(r"started run (\d+)", started)[1]
    words = "config.federation.batch_size: 2 here, 4 at the server"
    line = f"error: site B: the study of the server is not this site's ({words})"
    trial.wait(
        lambda: line in trial.flwr("log", number, "trial", "--show"), 60 * MINUTES, "the line"
    )
    assert words in trial.log("B")
