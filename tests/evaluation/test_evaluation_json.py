"""From predictions to figures: those of the evaluation, at thresholds of the validation split."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.data.issues import DataIssues, Issue
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.biometry import measurement_errors
from ufm_jax.evaluation.calls import choose_thresholds, with_calls
from ufm_jax.evaluation.cases import binary_cases, multiclass_cases, multilabel_cases
from ufm_jax.evaluation.diagnosis import diagnose
from ufm_jax.evaluation.evaluation_json import (
    Evaluation,
    evaluate_diagnosis,
    evaluate_measurement,
    evaluate_predictions,
    evaluate_segmentation,
    write_results,
)
from ufm_jax.evaluation.intervals import Bootstrap
from ufm_jax.evaluation.predictions import DiagnosisPredictions
from ufm_jax.evaluation.segmentation import summarise
from ufm_jax.evaluation.thresholds import Threshold, choose_threshold
from ufm_jax.runs.stored import as_json

THREE = ("a", "b", "c")


def direct(predictions, positive, thresholds, bootstrap):
    p = predictions
    if p.kind == "multi":
        cases = multilabel_cases(p.probabilities, p.targets, p.classes, thresholds)
    elif len(p.classes) > 2:
        cases = multiclass_cases(p.probabilities, p.labels, p.classes)
    else:
        cases = binary_cases(p.probabilities, p.labels, p.classes, positive, thresholds[positive])
    return diagnose(cases, p.groups, bootstrap)


@pytest.mark.parametrize(
    ("classes", "kind", "positive"),
    [
        (("benign", "malignant"), "single", "benign"),
        (("benign", "malignant"), "single", ""),
        (THREE, "single", ""),
        (THREE, "multi", ""),
    ],
)
def test_figures_and_calls_are_those_of_the_evaluation(
    diagnosis, settings, classes, kind, positive
):
    settings = replace(settings, positive=positive)
    val, test = (diagnosis(classes, kind=kind, seed=seed, called=False) for seed in (0, 1))
    thresholds = choose_thresholds(val, settings)
    result = evaluate_diagnosis(test, settings, thresholds, seed=3)
    bootstrap = Bootstrap(50, seed=3, name="evaluation")
    expected = direct(test, positive or classes[1], thresholds, bootstrap)
    assert as_json(result) == as_json(expected)
    called = with_calls(test, settings, thresholds).calls()
    known = ~np.isnan(test.targets)
    cells = np.array(
        [
            np.bincount((2 * test.targets[k, c] + called[k, c]).astype(int), minlength=4).reshape(
                2, 2
            )
            for c, k in enumerate(known.T)
        ]
    )
    if kind == "multi":
        np.testing.assert_array_equal(result.confusion, cells)
    elif len(classes) == 2:
        np.testing.assert_array_equal(result.confusion, cells[classes.index(result.positive)])
    else:
        np.testing.assert_array_equal(np.diag(result.confusion), cells[:, 1, 1])


@pytest.mark.parametrize("rule", ["youden", "sensitivity"])
def test_thresholds_are_those_of_val_and_the_test_split_has_no_say(diagnosis, rule):
    settings = EvaluationConfig(threshold=rule, sensitivity=0.8, replicates=0)
    val, test = diagnosis(seed=0, called=False), diagnosis(seed=1, called=False)
    chosen = choose_thresholds(val, settings)
    expected = choose_threshold(val.probabilities[:, 1], val.labels == 1, rule, at_least=0.8)
    assert chosen == {"malignant": expected}
    turned = replace(test, labels=1 - test.labels, targets=1 - test.targets)
    for split in (test, turned):
        result = evaluate_diagnosis(split, settings, chosen)
        assert result.decision == {"malignant": str(expected)}
    np.testing.assert_array_equal(
        with_calls(test, settings, chosen).called, with_calls(turned, settings, chosen).called
    )


def test_a_finding_has_a_threshold_of_the_rows_where_it_is_known(diagnosis, settings):
    val = diagnosis(THREE, kind="multi", called=False)
    known = ~np.isnan(val.targets[:, 1])
    expected = choose_threshold(val.probabilities[known, 1], val.targets[known, 1])
    assert not known.all()
    assert choose_thresholds(val, settings)["b"] == expected


def test_half_is_taken_and_said_where_nothing_is_chosen(diagnosis, settings):
    predictions = diagnosis(called=False)
    assert choose_thresholds(None, settings) == {}
    result = evaluate_diagnosis(predictions, settings, {})
    assert result.decision == {"malignant": "0.5 (none chosen: no validation split)"}
    half = replace(settings, threshold="half")
    assert choose_thresholds(predictions, half) == {"malignant": Threshold()}
    alone = predictions.take(np.flatnonzero(predictions.labels == 0))
    ((_, threshold),) = choose_thresholds(alone, settings).items()
    assert threshold == Threshold(0.5, "none chosen: all 20 rows of val lack it")
    assert choose_thresholds(diagnosis(THREE), settings) == {}


@pytest.mark.parametrize(("classes", "kind"), [(THREE[:2], "single"), (THREE, "single")])
def test_a_split_of_one_class_has_figures_that_say_why_they_are_undefined(
    tmp_path, diagnosis, settings, classes, kind
):
    predictions = diagnosis(classes, kind=kind, called=False)
    alone = predictions.take(np.flatnonzero(predictions.labels == 0))
    result = evaluate_diagnosis(alone, settings, choose_thresholds(alone, settings))
    auroc = result.overall["auroc"]
    assert np.isnan(auroc.value)
    assert "row" in auroc.note
    write_results(tmp_path, Evaluation("x", Task(kind, classes), {"test": result}), {})
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["splits"]["test"]["overall"]["auroc"]["value"] is None


def test_a_positive_class_that_is_none_is_refused_by_key(diagnosis):
    settings = EvaluationConfig(positive="BA")
    with pytest.raises(ConfigError, match=r"config\.evaluation\.positive='BA'.*benign, malignant"):
        choose_thresholds(diagnosis(), settings)


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=20), st.data())
def test_a_row_at_the_threshold_is_called(values, data):
    probability = np.array(values, np.float32)
    threshold = Threshold(float(data.draw(st.sampled_from(probability.tolist()))))
    predictions = DiagnosisPredictions(
        names=tuple(map(str, range(len(values)))),
        clients=("a",) * len(values),
        groups=np.arange(len(values)),
        probabilities=np.stack([1 - probability, probability], 1),
        labels=np.arange(len(values)) % 2,
        targets=np.eye(2)[np.arange(len(values)) % 2],
        classes=("no", "yes"),
    )
    called = with_calls(predictions, EvaluationConfig(), {"yes": threshold}).calls()
    np.testing.assert_array_equal(called[:, 1], probability >= threshold.value)
    np.testing.assert_array_equal(called.sum(1), 1)


def test_figures_of_masks_and_measurements_are_those_of_the_evaluation(segmentation, settings):
    p, bootstrap = segmentation(unit="mm"), Bootstrap(50, name="evaluation")
    expected = summarise(p.scores, p.classes, groups=p.groups, bootstrap=bootstrap)
    assert as_json(evaluate_segmentation(p, settings)) == as_json(expected)
    known = np.isfinite(p.reference)
    errors = evaluate_measurement(p, settings)
    assert errors.without_reference == 1
    assert errors.result.missed == 1
    assert errors.result == measurement_errors(
        *(p.measured[known], p.reference[known]),
        unit="mm",
        groups=p.groups[known],
        bootstrap=bootstrap,
    )
    assert evaluate_measurement(segmentation(), settings) is None


def test_where_nothing_could_be_measured_it_says_so(segmentation, settings):
    p = segmentation(unit="mm")
    nothing = evaluate_measurement(replace(p, measured=np.full(12, np.nan)), settings)
    assert nothing.result is None
    assert nothing.note == "nothing could be measured on the 11 images with a true value"
    unknown = evaluate_measurement(replace(p, reference=np.full(12, np.nan)), settings)
    assert (unknown.result, unknown.without_reference) == (None, 12)


def test_the_file_holds_all_parts_as_json(tmp_path, segmentation, settings):
    p = segmentation(unit="mm")
    evaluation = Evaluation(
        name="heads",
        task=Task("segment", p.classes),
        splits={split: evaluate_segmentation(p, settings) for split in ("val", "test")},
        measurement={"test": evaluate_measurement(p, settings)},
        note="so",
    )
    write_results(tmp_path, evaluation, {})
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(found) == [
        *("name", "kind", "classes", "splits", "thresholds", "measurement", "comparison"),
        *("readers", "note"),
    ]
    assert found["splits"]["val"] == as_json(evaluation.splits["val"])
    assert found["measurement"]["test"]["without_reference"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]


def test_figures_say_how_many_images_left_a_split_because_another_holds_them(diagnosis, settings):
    left = ("left out of test", "left out of test", "left out of val")
    issues = [
        Issue("duplicate_split", "a", f"{row}.png", f"{reason}: same pixels as b.png in train")
        for row, reason in enumerate(left)
    ]
    found = diagnosis()
    config = SimpleNamespace(name="run", evaluation=settings, seed=0)

    def note(*issues, before=""):
        data = SimpleNamespace(task=Task("single", found.classes), issues=DataIssues(issues))
        return evaluate_predictions(config, data, {"test": found}, {}, before)[0].note

    assert note(*issues, before="Private.") == (
        "Private. 2 images left out of test: another split holds the same pixels. 1 image left out "
        "of val: another split holds the same pixels."
    )
    assert note() == ""


def test_a_model_that_calls_one_class_whatever_it_sees_is_told(diagnosis, settings):
    found = diagnosis()
    data = SimpleNamespace(task=Task("single", found.classes), issues=DataIssues(()))
    config = SimpleNamespace(name="run", evaluation=settings, seed=0)

    def note(predictions):
        return evaluate_predictions(config, data, {"test": predictions}, {})[0].note

    same = np.full_like(found.probabilities, 0.5) + np.array([0.2, -0.2], np.float32)
    told = "test: the model tells nothing apart, and calls all benign."
    assert note(replace(found, probabilities=same)) == told
    assert note(found) == ""
