"""Probes: features, regressions folded into the head, nearest neighbours, and what val decides."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ufm_jax.config.finetuning import EvaluationConfig, FinetuneConfig, NetworkConfig
from ufm_jax.data.cache.store import ArrayStore
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.labels.store import LabelledStore
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.probes.neighbours import vote
from ufm_jax.finetuning.probes import linear_knn
from ufm_jax.finetuning.probes.hyperparameter import figures_of, validation_of
from ufm_jax.finetuning.probes.linear_knn import features, knn_probe, linear_probe
from ufm_jax.objectives.task import make_objective
from ufm_jax.prediction.predictor import Predictor, predict_rows

SIZE = 16
CONFIG = FinetuneConfig(
    model=NetworkConfig(size="xs", image_size=SIZE, patch_size=8, channels=1, scan_layers=True),
    evaluation=EvaluationConfig(batch_size=16),
)
CLASSES = ("benign", "malignant", "normal")


def configured(**changes):
    return dataclasses.replace(CONFIG, evaluation=dataclasses.replace(CONFIG.evaluation, **changes))


def pictures(labels, seed=0, noise=40.0):
    """Noise, brighter in a band that tells the class."""
    images = np.random.default_rng(seed).normal(90, noise, (len(labels), SIZE, SIZE, 1))
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 4] += 60
    return images.clip(0, 255).astype(np.uint8)


def labelled(labels, splits, *, targets=None, classes=CLASSES, images=None):
    """Data in memory; every image is its own group."""
    count, labels = len(labels), np.asarray(labels, np.int32)
    images = pictures(labels) if images is None else images
    kind = "single" if targets is None else "multi"
    targets = np.eye(len(classes), dtype=np.float32)[labels] if targets is None else targets
    store = ArrayStore(
        images, np.full((count, 2), SIZE, np.int32), np.zeros((count, 7), np.float32), labels
    )
    return LabelledData(
        task=Task(kind, classes),
        store=LabelledStore(store, targets),
        names=tuple(f"{row}.png" for row in range(count)),
        images=tuple(Path(f"{row}.png") for row in range(count)),
        clients=("all",),
        offsets=np.array([0, count]),
        splits=np.array(splits),
        labels=labels if kind == "single" else np.full(count, -1, np.int32),
        targets=targets,
        groups=np.arange(count),
        group_names=tuple(str(row) for row in range(count)),
        native_size=np.full((count, 2), SIZE, np.int32),
        spacing=np.full(count, np.nan, np.float32),
        attributes=({},) * count,
        class_pixels=np.zeros((count, 0), np.int64),
    )


LABELS = np.arange(90) % 3
SPLITS = np.repeat(["train", "val", "test"], [45, 24, 21])


@pytest.fixture(scope="module")
def data():
    return labelled(LABELS, SPLITS)


@pytest.fixture(scope="module")
def findings():
    """Three findings that may occur together, one label in five unknown."""
    targets = (np.random.default_rng(5).random((90, 3)) < 0.5).astype(np.float32)
    images = np.stack([pictures(np.full(90, c), seed=c) for c in range(3)])
    images = np.where(targets.T[..., None, None, None] > 0, images, 60).mean(0).astype(np.uint8)
    targets[np.random.default_rng(6).random((90, 3)) < 0.2] = np.nan
    return labelled(LABELS, SPLITS, targets=targets, images=images)


@pytest.fixture(scope="module")
def models():
    """Objective and fresh parameters by task, kept so that each is compiled once."""
    made = {}

    def model_of(data):
        if data.task not in made:
            objective = make_objective(CONFIG, data.task)
            made[data.task] = objective, objective.init(jax.random.key(0))
        return made[data.task]

    return model_of


def predicted(objective, params, data, rows):
    predictor = Predictor(objective.predict, 16)
    return np.concatenate([found for _, found in predict_rows(predictor, params, data, rows)])


def test_features_do_not_depend_on_the_batch_size_and_are_compiled_once(data, models):
    objective, params = models(data)
    linear_knn._feature_predictor.cache_clear()
    rows = np.arange(20)[::-1]
    whole = features(objective.network, params, data, rows, CONFIG)
    assert whole.shape == (20, 96)
    assert whole.dtype == np.float32
    parts = features(objective.network, params, data, rows[:9], CONFIG)
    np.testing.assert_array_equal(parts, whole[:9])
    predictor = linear_knn._feature_predictor(objective.network, CONFIG.model, 16, False)
    assert predictor._predict._cache_size() == 1
    other = features(objective.network, params, data, rows, configured(batch_size=7))
    np.testing.assert_allclose(other, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_folded_head_predicts_what_scikit_learn_does(classes, models):
    data = labelled(LABELS % classes, SPLITS, classes=CLASSES[:classes])
    objective, params = models(data)
    rows = data.rows("train")
    result = linear_probe(objective.network, params, data, rows, configured(select="last"))
    seen = features(objective.network, params, data, np.arange(90), CONFIG)
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, tol=1e-6, max_iter=2000))
    peer.fit(seen[rows].astype(np.float64), data.labels[rows])
    found = predicted(objective, result.params, data, np.arange(90))
    np.testing.assert_allclose(found, peer.predict_proba(seen), rtol=0, atol=1e-5)
    assert (found.max(1) > 0.9).mean() > 0.5
    encoder = {name: leaf for name, leaf in result.params.items() if name != "head"}
    assert encoder == {name: leaf for name, leaf in params.items() if name != "head"}


def test_each_finding_is_fitted_where_it_is_known(findings, models):
    objective, params = models(findings)
    rows = findings.rows("train")
    result = linear_probe(objective.network, params, findings, rows, configured(select="last"))
    found = predicted(objective, result.params, findings, np.arange(90))
    seen = features(objective.network, params, findings, np.arange(90), CONFIG)
    wide = seen.astype(np.float64)
    inputs = (wide - wide[rows].mean(0)) / wide[rows].std(0)
    for c in range(3):
        known = rows[~np.isnan(findings.targets[rows, c])]
        peer = LogisticRegression(C=1.0, tol=1e-6, max_iter=2000)
        peer.fit(inputs[known], findings.targets[known, c])
        np.testing.assert_allclose(found[:, c], peer.predict_proba(inputs)[:, 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("select", ["auto", "balanced_accuracy"])
def test_the_probe_has_the_best_figure_of_the_table_and_it_is_that_of_its_predictions(
    select, data, models
):
    objective, params = models(data)
    rows, val = data.rows("train"), data.rows("val")
    result = linear_probe(objective.network, params, data, rows, configured(select=select))
    by = "auroc" if select == "auto" else select
    assert result.chosen["by"] == by
    assert [line["C"] for line in result.table] == list(linear_knn.STRENGTHS)
    best = (min if by == "loss" else max)(line[by] for line in result.table)
    assert result.chosen[by] == best
    mine = figures_of(predicted(objective, result.params, data, val), data, val)
    for name, value in mine.items():
        assert value == pytest.approx(result.chosen[name], abs=1e-4)


class _Guarded:
    """A store that refuses some rows."""

    def __init__(self, store, refused):
        self._store, self._refused = store, refused

    def read(self, rows):
        assert not np.isin(rows, self._refused).any(), "a row was read that must not be"
        return self._store.read(rows)

    def __len__(self):
        return len(self._store)


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_what_is_chosen_never_depends_on_test_rows(probe, data, models):
    objective, params = models(data)
    rows, test = data.rows("train"), data.rows("test")
    targets, labels = data.targets.copy(), data.labels.copy()
    targets[test], labels[test] = np.nan, -1
    poisoned = dataclasses.replace(
        data, store=_Guarded(data.store, test), targets=targets, labels=labels
    )
    clean, other = (probe(objective.network, params, d, rows, CONFIG) for d in (data, poisoned))
    assert clean.chosen == other.chosen
    assert clean.table == other.table
    if clean.params is not None:
        np.testing.assert_array_equal(
            clean.params["head"]["kernel"], other.params["head"]["kernel"]
        )


def test_neighbours_are_of_the_training_rows_and_tell_the_classes_apart(data, models):
    objective, params = models(data)
    rows, test = data.rows("train")[:30], data.rows("test")
    result = knn_probe(objective.network, params, data, rows, CONFIG)
    assert result.params is None
    assert [line["k"] for line in result.table] == [1, 5, 10, 20, 30]
    found = result.probabilities(test)
    seen = features(objective.network, params, data, np.arange(90), CONFIG)
    expected = vote(seen[rows], data.targets[rows], seen[test], [result.chosen["k"]])[0]
    np.testing.assert_array_equal(found, expected)
    assert (found.argmax(1) == data.labels[test]).mean() > 0.5


def test_mirrored_votes_are_the_same_for_a_picture_and_its_mirror_image(data, models):
    objective, params = models(data)
    rows, test = data.rows("train"), data.rows("test")
    images = data.store.images.images.copy()
    images[test] = images[test][:, :, ::-1]
    turned = labelled(LABELS, SPLITS, images=images)
    config = configured(mirror=True, select="last")
    found, other = (
        knn_probe(objective.network, params, d, rows, config).probabilities(test)
        for d in (data, turned)
    )
    np.testing.assert_allclose(found, other, rtol=0, atol=1e-4)
    plain = knn_probe(objective.network, params, data, rows, configured(select="last"))
    assert np.abs(plain.probabilities(test) - found).max() > 1e-3


def test_without_validation_rows_training_rows_are_cross_validated(models):
    """The figures are those of heads that scikit-learn fits to the rows outside each fold."""
    data = labelled(LABELS, np.where(SPLITS == "val", "test", SPLITS))
    objective, params = models(data)
    rows = data.rows("train")
    result = linear_probe(objective.network, params, data, rows, CONFIG)
    assert result.chosen["note"] == "in a cross-validation over groups of the training split"
    assert result.chosen["auroc"] == max(line["auroc"] for line in result.table)
    seen = features(objective.network, params, data, rows, CONFIG).astype(np.float64)
    peer = make_pipeline(
        StandardScaler(), LogisticRegression(C=result.chosen["C"], tol=1e-6, max_iter=2000)
    )
    found = np.zeros((len(rows), 3))
    for fitted, asked in validation_of(data, rows, "auto").parts:
        found[asked] = peer.fit(seen[fitted], data.labels[fitted]).predict_proba(seen[asked])
    assert result.chosen["loss"] == pytest.approx(figures_of(found, data, rows)["loss"], abs=1e-4)
    peer.fit(seen, data.labels[rows])
    given = predicted(objective, result.params, data, rows)
    np.testing.assert_allclose(given, peer.predict_proba(seen), rtol=0, atol=1e-4)


def test_neighbours_are_cross_validated_too_and_never_vote_for_themselves(models):
    splits = np.where(SPLITS == "val", "test", SPLITS)
    data = labelled(LABELS, splits, images=pictures(LABELS, noise=200.0))
    objective, params = models(data)
    result = knn_probe(objective.network, params, data, data.rows("train"), CONFIG)
    alone = next(line for line in result.table if line["k"] == 1)
    assert alone["balanced_accuracy"] < 0.9


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_training_rows_of_one_class_are_refused_by_its_name(probe, data):
    rows = np.flatnonzero(data.labels == 1)[:5]
    with pytest.raises(ConfigError, match=r"5 training images .* the same: malignant"):
        probe(None, None, data, rows, CONFIG)


def test_coarse_arithmetic_is_refused(data):
    coarse = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dtype="bfloat16"))
    with pytest.raises(ConfigError, match=r"config\.model\.dtype='bfloat16'"):
        linear_probe(None, None, data, data.rows("train"), coarse)


def test_a_feature_that_is_not_finite_names_the_image(data, monkeypatch):
    class Predicts:
        batch_size = 4

        def __call__(self, params, batch):
            broken = (batch["image"] == data.store.images.images[6]).all((1, 2, 3))
            return np.where(broken[:, None], np.nan, np.ones((len(broken), 96)))

    network = SimpleNamespace(size=SimpleNamespace(width=96))
    monkeypatch.setattr(linear_knn, "_feature_predictor", lambda *options: Predicts())
    with pytest.raises(ConfigError, match=r"^6\.png: its feature is not finite"):
        features(network, None, data, np.arange(10), configured(batch_size=4))
