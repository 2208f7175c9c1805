"""Probes while training: which labels belong together, what is asked, what is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import HeldOutConfig, PretrainConfig
from ufm_jax.data.cache.store import ArrayStore
from ufm_jax.data.federated import FederatedData, _tasks
from ufm_jax.fed.placement import make_placement
from ufm_jax.models.classifier import Classifier
from ufm_jax.models.sizes import SIZES
from ufm_jax.objectives.features import make_features
from ufm_jax.objectives.reconstruction import init_params
from ufm_jax.objectives.views import patches_of, plain_views
from ufm_jax.train import feature_probe
from ufm_jax.train.feature_probe import FeatureProbe, probe_tasks

NAMES = ("benign", "malignant", "other a", "other b", "alone")
TASKS = ((0, 1), (2, 3), (4,))


def part(labels, begin=0):
    """Images whose first pixel is their label, and whose second is noise."""
    labels = np.array(labels, np.int32)
    rng = np.random.default_rng(begin)
    pixels = rng.integers(0, 255, (len(labels), 4, 4, 1), np.uint8)
    pixels[:, 0, 0, 0] = labels
    count = len(labels)
    store = ArrayStore(
        pixels, np.full((count, 2), 4, np.int32), np.zeros((count, 7), np.float32), labels
    )
    return FederatedData(
        ("a",),
        np.array([0, count]),
        store,
        labels=labels,
        label_names=NAMES,
        tasks=TASKS,
        contents=np.arange(begin, begin + count),
    )


def federation(train, held):
    object.__setattr__(data := part(train), "held_out", part(held, 1000))
    return data


def test_labels_of_one_site_are_one_task_and_sites_that_share_a_label_are_joined():
    sites = ["a", "a", "b", "b", "c", "c", "d", "e"]
    labels = np.array([0, 1, 2, 3, 1, 4, -1, 5])
    assert _tasks(sites, labels) == ((2, 3), (0, 1, 4), (5,))
    assert _tasks(["a", "b", "c"], np.array([0, 1, -1])) == ((0,), (1,))
    assert _tasks(["a", "b", "c", "c"], np.array([0, 1, 0, 1])) == ((0, 1),)


def test_a_task_needs_two_classes_to_learn_from_and_two_to_be_asked_for():
    data = federation([0, 1, 2, 3, 4, -1, 0], [1, 0, 2, 2, 4, -1])
    (task,) = probe_tasks(data)
    assert (task.name, task.classes) == ("benign, malignant", ("benign", "malignant"))
    assert task.bank.tolist() == [0, 1, 6]
    assert task.asked.tolist() == [0, 1]
    assert task.targets.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert not probe_tasks(part([0, 1]))


def test_a_bank_has_a_bound_and_an_even_share_of_the_classes():
    data = federation([0, 1] * 2000, [0, 1])
    object.__setattr__(data, "contents", np.random.default_rng(0).permutation(4000))
    (task,) = probe_tasks(data)
    assert len(task.bank) == feature_probe._BANK
    assert 0.4 < task.targets.mean(0)[0] < 0.6


@pytest.fixture
def probe(monkeypatch):
    """Probes with a function of images in the place of an encoder's features."""

    def make(data, weight):
        def features(params, batch):
            pixels = batch["image"][:, :, :, 0].astype(jnp.float32).reshape(-1, 16)
            return pixels.at[:, 0].multiply(params["w"])

        monkeypatch.setattr(feature_probe, "make_features", lambda model: features)
        config = PretrainConfig(evaluation=HeldOutConfig(batch_size=16))
        placement = make_placement(4)
        made = FeatureProbe(config, data, placement, probe_tasks(data))
        return made(placement.put({"w": np.float32(weight)}, placement.replicated))

    return make


def test_features_that_tell_the_labels_score_1_and_features_that_do_not_score_a_half(probe):
    rng = np.random.default_rng(0)
    labels, held = rng.integers(0, 2, 400).tolist(), rng.integers(0, 2, 200).tolist()
    labels, held = labels + [2, 3] * 40, held + [2, 3] * 20
    good = probe(federation(labels, held), 1e5)
    assert list(good) == ["benign, malignant", "other a, other b"]
    figures = good["benign, malignant"]
    assert figures == pytest.approx(dict.fromkeys(figures, 1.0))
    # Cosines do not tell lengths apart, which the regression does.
    assert good["other a, other b"]["linear_auroc"] == pytest.approx(1.0)
    assert set(figures) == {
        f"{name}_{figure}"
        for name in ("linear", "knn")
        for figure in ("auroc", "balanced_accuracy")
    }
    blind = probe(federation(labels, held), 0.0)["benign, malignant"]
    assert all(0.38 < value < 0.62 for value in blind.values()), blind


def test_features_are_those_that_a_fresh_classifier_gives_its_head():
    model = ModelConfig(
        size="xs", image_size=32, patch_size=8, channels=1, decoder_width=32, decoder_depth=1,
        decoder_heads=4,
    )  # fmt: skip
    params = init_params(model, jax.random.key(0))
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 40, 1), np.uint8)
    batch = {"image": pixels, "extent": np.full((3, 2), 40, np.int32)}
    network = Classifier(SIZES["xs"], model.grid, num_classes=2)
    patches = patches_of(plain_views(batch, 32), model)
    fresh = network.init(jax.random.key(1), patches)["params"]
    encoder = {name: params["encoder"][name] for name in fresh["encoder"]}
    expected = network.apply({"params": fresh | {"encoder": encoder}}, patches, method="features")
    np.testing.assert_allclose(make_features(model)(params, batch), expected, rtol=1e-6)
