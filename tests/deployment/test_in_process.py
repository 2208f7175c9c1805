"""Sites and a server that exchange letters end with the parameters of their simulation."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.deployment.small_study import (
    FEDADAM,
    SCAFFOLD,
    SGD,
    relative_error,
    simulated,
    study_of,
    write_images,
)
from ufm_jax.deployment.server import run_server
from ufm_jax.deployment.site import SiteRun
from ufm_jax.deployment.study import read_study, write_study
from ufm_jax.errors import ConfigError, RunError
from ufm_jax.runs.checkpoint import load_params
from ufm_jax.runs.history import read_history

KINDS = {
    "fedavg": SGD | {"federation.client_state": "reset"},
    "fedadam": FEDADAM | {"federation.client_state": "average"},
    "scaffold": SGD | SCAFFOLD,
    "persist": SGD | {"federation.client_state": "persist", "federation.cohort_size": 2},
    "secure": SGD
    | {"federation.client_state": "reset", "federation.aggregation.rule": "secure_sum"},
}

# Where the noise is no secret, the simulation draws the same.
KINDS["private"] = KINDS["fedavg"] | {
    "federation.privacy.level": "client",
    "federation.privacy.noise_seed": 1,
    "federation.privacy.noise_multiplier": 0.01,
    "federation.client_weights": "uniform",
}


def linear_loss(model, augment):
    del model, augment

    def loss(params, batch, keys):
        pixels = batch["image"].reshape(len(keys), -1) / 255
        noise = 0.1 * jax.vmap(jax.random.normal)(keys)
        return (jnp.tanh(pixels @ params["w"]) + params["bias"] - noise - 1) ** 2

    return loss


def linear_params(model, key):
    del model
    return {"w": 0.05 * jax.random.normal(key, (24 * 24,)), "bias": jnp.zeros(())}


@pytest.fixture(autouse=True)
def small_model(monkeypatch):
    """A model that compiles in no time; test_flower.py trains the real one."""
    monkeypatch.setattr("ufm_jax.train.pretraining.make_loss", linear_loss)
    for user in ("train.pretraining", "deployment.study"):
        monkeypatch.setattr(f"ufm_jax.{user}.init_params", linear_params)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_images(root)
    return root


class Sites:
    """The sites of a study, each with its own copy of it."""

    def __init__(self, study, images, folder):
        self.images, self.folder, self.runs = images, folder, {}
        for site in study.sites:
            (folder / site).mkdir(parents=True)
            write_study(folder / site / "study.json", study)
            self.restart(site)

    def restart(self, name):
        study = read_study(self.folder / name / "study.json", str(self.images / name))
        self.runs[name] = SiteRun(study, name, self.folder / name, {})

    def __call__(self, letters):
        return {name: self.runs[name].answer(letter) for name, letter in letters.items()}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "scaffold" else pytest.mark.slow) for kind in KINDS],
)
def test_a_deployment_gives_the_parameters_of_its_simulation(kind, images, tmp_path):
    study = study_of(images, KINDS[kind])
    sites = Sites(study, images, tmp_path)
    run_server(study, tmp_path / "server", sites)
    known = simulated(images, tmp_path / "simulated", KINDS[kind])
    found = load_params(tmp_path / "server" / "model")
    assert relative_error(found, known) < 1e-6
    assert relative_error(study.first_params(), known) > 1e-5


class Dies(Exception):
    """The server's process ends."""


def test_whoever_is_killed_the_parameters_are_the_same(images, tmp_path):
    """A site that is started again, an answer that is lost, and a server that dies in a round."""
    study = study_of(images, KINDS["scaffold"])
    run_server(study, tmp_path / "undisturbed", Sites(study, images, tmp_path / "one"))
    sites, trained = Sites(study, images, tmp_path / "other"), []

    def disturbed(letters):
        answers = sites(letters)
        if "train" in (letter.kind for letter in letters.values()):
            trained.append(len(letters))
            if len(trained) == 1:
                del answers["A"]
                sites.restart("A")
            if len(trained) == 4:
                sites.restart("B")
                raise Dies
        return answers

    with pytest.raises(Dies):
        run_server(study, tmp_path / "server", disturbed)
    run_server(study, tmp_path / "server", disturbed)
    assert trained == [3, 1, 3, 3, 3]
    sites.images = images.parent / "more"
    shutil.copytree(images, sites.images, dirs_exist_ok=True)
    Image.new("L", (24, 24)).save(sites.images / "B" / "B" / "new.png")
    sites.restart("B")
    with pytest.raises(RunError, match="B: 4 then, 5 now"):
        run_server(study, tmp_path / "server", sites)
    found, known = (load_params(tmp_path / name / "model") for name in ("server", "undisturbed"))
    jax.tree.map(np.testing.assert_array_equal, found, known)


@pytest.mark.slow
def test_a_site_that_is_lost_in_a_secure_round_is_left_out_of_it(images, tmp_path):
    """C sends its keys and no vector in round 1: as if its update had come late, unmasked."""
    found = {}
    for kind, asked in (("secure", "masked"), ("fedavg", "train")):
        study = study_of(images, KINDS[kind])
        sites = Sites(study, images, tmp_path / kind)

        def lossy(letters, sites=sites, asked=asked):
            answers = sites(letters)
            lost = [x for x in letters.values() if x.kind == asked and x.facts["round"] == 1]
            return {site: x for site, x in answers.items() if not (lost and site == "C")}

        run_server(study, tmp_path / kind / "server", lossy, least=2)
        late = [record.late for record in read_history(tmp_path / kind / "server")]
        assert late == [[], ["C"], []]
        found[kind] = load_params(tmp_path / kind / "server" / "model")
    assert relative_error(found["secure"], found["fedavg"]) < 1e-6


@pytest.mark.slow
def test_an_update_that_is_not_finite_is_left_out_whatever_the_site_says(images, tmp_path):
    study = study_of(images, KINDS["fedavg"])
    sites = Sites(study, images, tmp_path)

    def broken(letters):
        answers = sites(letters)
        if answers["B"].kind == "train":
            nan = {name: np.full_like(x, np.nan) for name, x in answers["B"].arrays.items()}
            answers["B"] = replace(answers["B"], arrays=nan)
        return answers

    run_server(study, tmp_path / "server", broken)
    assert [x.rejected for x in read_history(tmp_path / "server")] == [["B"]] * 3
    found = load_params(tmp_path / "server" / "model")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_a_site_with_another_study_is_refused_by_the_keys_that_differ(images, tmp_path):
    study = study_of(images, KINDS["scaffold"])
    sites = Sites(study, images, tmp_path)
    other = study_of(
        images, KINDS["scaffold"] | {"federation.batch_size": 2, "model.decoder_depth": 2}
    )
    write_study(tmp_path / "B" / "study.json", other)
    sites.restart("B")
    with pytest.raises(RunError, match=r"^site B: .*batch_size: 2 here, 4 at the server") as error:
        run_server(study, tmp_path / "server", sites)
    assert "config.model.decoder_depth: 2 here, 1 at the server" in str(error.value)
    assert "learning_rate" not in str(error.value)


REFUSED = {
    "federation.training": "local",
    "federation.attack.kind": "sign_flip",
    "federation.compression.kind": "top_k",
    "federation.participation.step_seconds": 1.0,
    "data.source": "synthetic",
    "data.partition": "iid",
    "data.holdout_fraction": 0.1,
    "schedule.patience": 2,
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_can_only_be_simulated_is_refused_with_the_remedy(key, images):
    more = {"federation.attack.clients": (0,)} if "attack" in key else {}
    more |= {"data.working_size": 40} if REFUSED[key] == "synthetic" else {}
    with pytest.raises(ConfigError, match=f"^config.{key}.*; set"):
        study_of(images, SGD | {"federation.client_state": "reset", key: REFUSED[key]} | more)
