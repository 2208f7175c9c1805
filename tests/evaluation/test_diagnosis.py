"""Diagnosis: equal to scikit-learn, weights are repetitions, and nothing undefined stays silent."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from ufm_jax.evaluation.calibration import bin_table, calibration_curve, calibration_error
from ufm_jax.evaluation.cases import binary_cases, multiclass_cases, multilabel_cases
from ufm_jax.evaluation.diagnosis import diagnose
from ufm_jax.evaluation.intervals import Bootstrap
from ufm_jax.evaluation.thresholds import Threshold
from ufm_jax.runs.stored import as_json

CLASSES = ("benign", "malignant", "normal")


def sample(seed, rows=120, classes=3):
    """Probabilities in tenths, so with many ties, and labels of all classes."""
    rng = np.random.Generator(np.random.Philox(seed))
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, rows - classes)])
    leaning = (1 + np.eye(classes)[labels]) / (1 + classes)
    return rng.multinomial(10, leaning) / 10, labels, rng


def values(figures):
    return {name: figure.value for name, figure in figures.items()}


def sklearn_binary(truth, probability, called):
    return {
        "auroc": metrics.roc_auc_score(truth, probability),
        "aupr": metrics.average_precision_score(truth, probability),
        "accuracy": metrics.accuracy_score(truth, called),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, called),
        "sensitivity": metrics.recall_score(truth, called),
        "specificity": metrics.recall_score(~truth, ~called),
        "precision": metrics.precision_score(truth, called, zero_division=0),
        "npv": metrics.precision_score(~truth, ~called, zero_division=0),
        "f1": metrics.f1_score(truth, called),
        "brier": metrics.brier_score_loss(truth, probability),
    }


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]))
def test_binary_figures_are_those_of_sklearn(seed, threshold):
    probabilities, labels, _ = sample(seed, classes=2)
    cases = binary_cases(probabilities, labels, CLASSES[:2], "malignant", Threshold(threshold))
    result = diagnose(cases, labels)
    truth, score = labels == 1, probabilities[:, 1]
    expected = sklearn_binary(truth, score, score >= threshold)
    found = values(result.overall)
    found.pop("calibration_error")
    assert found == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(
        result.confusion, metrics.confusion_matrix(truth, score >= threshold)
    )


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5))
def test_multiclass_figures_are_those_of_sklearn(seed, classes):
    probabilities, labels, _ = sample(seed, classes=classes)
    names = tuple("abcde"[:classes])
    result = diagnose(multiclass_cases(probabilities, labels, names), labels)
    called = probabilities.argmax(1)
    found = values(result.overall)
    one_hot = np.eye(classes)[labels]
    average = {"average": "macro", "zero_division": 0}
    expected = {
        "auroc": metrics.roc_auc_score(one_hot, probabilities, average="macro"),
        "aupr": metrics.average_precision_score(one_hot, probabilities, average="macro"),
        "accuracy": metrics.accuracy_score(labels, called),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, called),
        "sensitivity": metrics.recall_score(labels, called, **average),
        "precision": metrics.precision_score(labels, called, **average),
        "f1": metrics.f1_score(labels, called, average="macro"),
        "brier": metrics.brier_score_loss(labels, probabilities, scale_by_half=False),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(result.confusion, metrics.confusion_matrix(labels, called))
    for c, name in enumerate(names):
        single = values(result.per_class[name])
        single.pop("calibration_error")
        expected = sklearn_binary(labels == c, probabilities[:, c], called == c)
        assert single == pytest.approx(expected, abs=1e-12)


def test_weights_of_a_resample_are_repetitions_of_rows():
    probabilities, labels, rng = sample(3)
    weights = rng.integers(0, 4, (6, len(labels))).astype(float)
    targets = np.eye(3)[labels]
    targets[5:9, 1] = np.nan
    makers = (
        lambda rows: multiclass_cases(probabilities[rows], labels[rows], CLASSES),
        lambda rows: multilabel_cases(probabilities[rows], targets[rows], CLASSES),
    )
    for make in makers:
        together = make(np.arange(len(labels))).measure(weights)
        for b, drawn in enumerate(weights):
            rows = np.repeat(np.arange(len(labels)), drawn.astype(int))
            alone = make(rows).measure(np.ones((1, len(rows))))
            assert {n: v[b] for n, v in together.items()} == pytest.approx(
                {n: v[0] for n, v in alone.items()}, abs=1e-10
            )


def test_calibration_error_by_hand():
    # Bins of 0.5: (0, .5] holds .2 and .4 with one positive, (.5, 1] holds .6 and .9 with one:
    # 1/4 |1 - .6| + 1/4 |1 - 1.5| = 0.1 + 0.125.
    probability, happened = np.array([0.2, 0.4, 0.6, 0.9]), np.array([False, True, True, False])
    table = bin_table(probability, 2)
    error = calibration_error(probability, happened, table, np.ones((1, 4)))
    assert error[0] == pytest.approx(0.225)
    curve = calibration_curve(probability, happened, 2)
    np.testing.assert_allclose(curve.predicted, [0.3, 0.75])
    np.testing.assert_allclose(curve.observed, [0.5, 0.5])
    np.testing.assert_array_equal(curve.counts, [2, 2])


def test_the_calibration_of_a_diagnosis_is_that_of_its_probabilities():
    probabilities, labels, _ = sample(4, classes=2)
    result = diagnose(binary_cases(probabilities, labels, ("n", "y"), "y"), labels)
    probability, happened = probabilities[:, 1], labels == 1
    weights = np.ones((1, len(labels)))
    expected = calibration_error(probability, happened, bin_table(probability, 15), weights)
    assert result.overall["calibration_error"].value == pytest.approx(expected[0])
    curve = calibration_curve(probability, happened, 15)
    np.testing.assert_array_equal(result.curves["y"].calibration.observed, curve.observed)


def test_probabilities_on_bin_edges_belong_to_the_lower_bin():
    # Guo et al.: (b/n, (b+1)/n]; 0 joins the first. With 10 bins 0.5 is in the fifth, alone.
    probability, happened = np.array([0.05, 0.1, 0.5, 1.0]), np.array([False, True, True, True])
    table = bin_table(probability, 10)
    # |(0 - .05) + (1 - .1)| / 4 + |1 - .5| / 4 + 0
    error = calibration_error(probability, happened, table, np.ones((1, 4)))
    assert error[0] == pytest.approx((0.85 + 0.5) / 4)


def test_the_positive_class_may_be_the_first():
    probabilities, labels, _ = sample(5, classes=2)
    one = diagnose(binary_cases(probabilities, labels, ("a", "b"), "a"), labels)
    turned = binary_cases(probabilities[:, ::-1], 1 - labels, ("b", "a"), "a")
    swapped = diagnose(turned, labels)
    assert values(one.overall) == values(swapped.overall)
    assert one.overall["sensitivity"] != one.overall["specificity"]


def test_an_absent_class_is_named_and_left_out_of_macro_averages():
    probabilities, labels, _ = sample(7)
    labels = np.where(labels == 2, 0, labels)
    result = diagnose(multiclass_cases(probabilities, labels, CLASSES), np.arange(len(labels)))
    assert result.left_out == {"normal": "no row has it"}
    assert np.isnan(result.per_class["normal"]["auroc"].value)
    assert result.per_class["normal"]["auroc"].note == "no row has it"
    assert result.per_class["normal"]["specificity"].value >= 0
    recalls = [np.mean(probabilities.argmax(1)[labels == c] == c) for c in (0, 1)]
    assert result.overall["balanced_accuracy"].value == pytest.approx(np.mean(recalls))
    pair = [result.per_class[name]["auroc"].value for name in CLASSES[:2]]
    assert result.overall["auroc"].value == pytest.approx(np.mean(pair))


def test_one_class_only_is_nan_with_a_reason_never_a_number():
    probabilities, labels, _ = sample(8, classes=2)
    ones = np.ones_like(labels)
    settings_ = Bootstrap(replicates=20)
    groups = np.arange(len(ones))
    single = diagnose(binary_cases(probabilities, ones, ("a", "b"), "b"), groups, settings_)
    many = diagnose(multiclass_cases(probabilities, ones, ("a", "b")), groups)
    for result in (single, many):
        for name in ("auroc", "aupr"):
            assert np.isnan(result.overall[name].value)
            assert result.overall[name].note
            assert np.isnan(result.per_class["b"][name].value)
        assert result.curves["b"].roc is None
        assert as_json(result)["overall"]["auroc"]["value"] is None
    assert single.overall["accuracy"].value == np.mean(probabilities[:, 1] >= 0.5)
    assert many.overall["accuracy"].value == np.mean(probabilities.argmax(1) == 1)


def test_a_class_never_called_has_precision_0_and_a_note():
    probabilities = np.tile([0.8, 0.2], (6, 1))
    cases = multiclass_cases(probabilities, np.array([0, 1, 0, 1, 0, 1]), ("a", "b"))
    result = diagnose(cases, np.arange(6))
    precision = result.per_class["b"]["precision"]
    assert (precision.value, precision.note) == (0, "never called: 0 by convention")
    assert result.overall["precision"].value == 0.25


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.9])
def test_multilabel_figures_are_those_of_sklearn(threshold):
    probabilities, labels, rng = sample(12)
    targets = np.eye(3)[labels]
    targets[rng.random(targets.shape) < 0.2] = 1
    thresholds = dict.fromkeys(CLASSES, Threshold(threshold, "chosen on val"))
    result = diagnose(multilabel_cases(probabilities, targets, CLASSES, thresholds), labels)
    each = [
        sklearn_binary(targets[:, c] == 1, probabilities[:, c], probabilities[:, c] >= threshold)
        for c in range(3)
    ]
    expected = {name: np.mean([one[name] for one in each]) for name in each[0]}
    found = values(result.overall)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert result.decision["normal"] == f"{threshold:.4g} (chosen on val)"


def test_unknown_findings_do_not_count():
    probabilities, labels, rng = sample(9)
    targets = np.eye(3)[labels]
    targets[rng.random(targets.shape) < 0.3] = np.nan
    targets[:, 2] = np.where(np.isnan(targets[:, 2]), np.nan, 0)
    result = diagnose(multilabel_cases(probabilities, targets, CLASSES), np.arange(len(labels)))
    known = ~np.isnan(targets[:, 0])
    figure = result.per_class["benign"]["auroc"]
    assert figure.value == pytest.approx(
        metrics.roc_auc_score(targets[known, 0], probabilities[known, 0])
    )
    assert figure.n == known.sum() < len(labels)
    assert result.left_out == {"normal": "no row has it"}
    assert result.confusion.shape == (3, 2, 2)
    assert result.confusion[0].sum() == known.sum()
    two = [result.per_class[name]["f1"].value for name in CLASSES[:2]]
    assert result.overall["f1"].value == pytest.approx(np.mean(two))


def test_results_are_json_and_intervals_hold_their_figures():
    probabilities, labels, rng = sample(11)
    groups = rng.integers(0, 40, len(labels))
    cases = multiclass_cases(probabilities, labels, CLASSES)
    result = diagnose(cases, groups, Bootstrap(replicates=200))
    loaded = json.loads(json.dumps(as_json(result), allow_nan=False))
    assert loaded["overall"]["auroc"]["value"] == result.overall["auroc"].value
    assert loaded["curves"]["benign"]["roc"]["thresholds"][0] is None
    for name in ("auroc", "aupr", "accuracy", "balanced_accuracy", "f1", "brier"):
        figure = result.overall[name]
        assert figure.low < figure.value < figure.high
    assert result.num_groups == len(np.unique(groups))
    assert "200 resamples" in result.interval


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": np.full((4, 2), 0.4)}, "sum 1"),
        ({"probabilities": np.array([[2.0, -1], [0, 1], [0, 1], [0, 1]])}, "row 0"),
        ({"probabilities": np.array([[0.5, 0.5], [np.nan, 1], [0, 1], [0, 1]])}, "row 1"),
        ({"probabilities": np.full((4, 3), 1 / 3)}, "column for each"),
        ({"labels": np.array([0, 1, -1, 1])}, "row 2"),
        ({"labels": np.array([0, 1, 1])}, "labels of shape"),
        ({"classes": ("a", "a")}, "once"),
        ({"groups": np.arange(3)}, "groups of shape"),
    ],
)
def test_bad_input_is_an_error_that_names_it(change, message):
    good = {
        "probabilities": np.full((4, 2), 0.5),
        "labels": np.array([0, 1, 0, 1]),
        "classes": ("a", "b"),
        "groups": np.arange(4),
    }
    given = good | change
    with pytest.raises(ValueError, match=message):
        diagnose(
            multiclass_cases(given["probabilities"], given["labels"], given["classes"]),
            given["groups"],
        )
    half, labels, classes, _ = good.values()
    with pytest.raises(ValueError, match="'c'"):
        binary_cases(half, labels, classes, "c")
    with pytest.raises(ValueError, match="finding 1"):
        multilabel_cases(half, np.full((4, 2), [0.0, 2.0]), classes)
    with pytest.raises(ValueError, match="one for each"):
        multilabel_cases(half, np.eye(2)[labels], classes, {"a": Threshold()})
