"""Comparisons of runs pair images by name; readers are compared at the model's calls."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ufm_jax.errors import ConfigError, DataError
from ufm_jax.evaluation.calls import choose_thresholds, with_calls
from ufm_jax.evaluation.comparison import compare_runs, read_and_compare
from ufm_jax.evaluation.evaluation_json import (
    evaluate_diagnosis,
    evaluate_segmentation,
)
from ufm_jax.evaluation.paired_tests import delong_test
from ufm_jax.evaluation.predictions_csv import read_table, write_table
from ufm_jax.evaluation.readers import wilson
from ufm_jax.runs.stored import as_json

TASKS = [(("no", "yes"), "single"), (("a", "b", "c"), "single"), (("a", "b", "c"), "multi")]
FIGURES = {"balanced_accuracy", "auroc", "accuracy"}


def shuffled(predictions, seed=5):
    return predictions.take(np.random.default_rng(seed).permutation(len(predictions.names)))


def with_same_truth(predictions, mine):
    return replace(predictions, labels=mine.labels, targets=mine.targets)


def assert_no_difference(comparison):
    for name, one in comparison.figures.items():
        assert (one.difference.value, one.difference.low, one.difference.high) == (0, 0, 0), name
        assert one.p_value == 1, name


@pytest.mark.parametrize(("classes", "kind"), TASKS)
def test_a_model_does_not_differ_from_itself_whatever_the_order(
    tmp_path, diagnosis, settings, classes, kind
):
    mine = diagnosis(classes, kind=kind)
    write_table(tmp_path / "p.csv", shuffled(mine))
    found = compare_runs(mine, read_table(tmp_path / "p.csv"), settings)
    assert set(found.figures) == FIGURES | ({"auroc_delong"} if len(classes) == 2 else set())
    assert (found.num_rows, found.num_groups, found.left_out) == (40, 20, {})
    assert_no_difference(found)


@pytest.mark.parametrize("unit", ["", "mm"])
def test_masks_do_not_differ_from_themselves(segmentation, settings, unit):
    mine = segmentation(unit=unit)
    found = compare_runs(mine, shuffled(mine), settings)
    expected = {"dice", "hd95_px", "hd95_mm"} | ({"mae_mm"} if unit else set())
    assert set(found.figures) == expected
    assert_no_difference(found)


@pytest.mark.parametrize(("classes", "kind"), TASKS)
def test_each_side_has_the_figures_of_its_evaluation(diagnosis, settings, classes, kind):
    mine = diagnosis(classes, kind=kind, called=False)
    other = with_same_truth(diagnosis(classes, kind=kind, seed=1, called=False), mine)
    thresholds = [choose_thresholds(one, settings) for one in (mine, other)]
    results = [
        evaluate_diagnosis(one, settings, chosen)
        for one, chosen in zip((mine, other), thresholds, strict=True)
    ]
    called = [
        with_calls(one, settings, chosen)
        for one, chosen in zip((mine, other), thresholds, strict=True)
    ]
    found = compare_runs(called[0], shuffled(called[1]), settings)
    for name in FIGURES:
        one = found.figures[name]
        assert one.first.value == results[0].overall[name].value
        assert one.second.value == results[1].overall[name].value
    json.dumps(as_json(found), allow_nan=False)


def test_two_classes_have_delongs_test_of_the_positive_class(diagnosis, settings):
    mine = diagnosis()
    other = with_same_truth(diagnosis(seed=1), mine)
    scores = (mine.probabilities[:, 0], other.probabilities[:, 0])
    found = compare_runs(mine, shuffled(other), replace(settings, positive="benign"))
    assert found.figures["auroc_delong"] == delong_test(mine.labels == 0, *scores, mine.groups)


def test_masks_have_the_means_of_their_evaluation(segmentation, settings):
    mine, other = segmentation(unit="mm"), segmentation(seed=1, unit="mm")
    other.measured[3] = np.nan
    found = compare_runs(mine, other, settings).figures
    results = [evaluate_segmentation(one, settings).overall for one in (mine, other)]
    for name in ("dice", "hd95_px", "hd95_mm"):
        sides = [found[name].first.value, found[name].second.value]
        assert sides == pytest.approx([result[name].value for result in results], rel=1e-12)
    both = np.isfinite(mine.measured) & np.isfinite(other.measured)
    expected = np.abs(mine.measured - mine.reference)[both].mean()
    assert found["mae_mm"].first.value == pytest.approx(expected, rel=1e-12)
    assert found["mae_mm"].first.n == both.sum() == 9


def test_what_cannot_be_compared_is_left_out_with_a_reason(diagnosis, segmentation, settings):
    mine = diagnosis()
    alone = mine.take(np.flatnonzero(mine.labels == 0))
    found = compare_runs(alone, alone, settings)
    assert np.isnan(found.figures["auroc"].p_value)
    assert "need" in found.left_out["auroc_delong"]
    single = compare_runs(mine.take(np.arange(2)), mine.take(np.arange(2)), settings)
    assert single.figures == {}
    assert set(single.left_out) == FIGURES | {"auroc_delong"}
    masks = compare_runs(segmentation(unit="mm"), segmentation(), settings)
    assert masks.left_out == {"mae_mm": "only one of the runs has it"}


def test_runs_on_other_images_or_labels_are_refused_by_name(diagnosis, segmentation, settings):
    mine = diagnosis()
    with pytest.raises(ConfigError, match=r"ünï, 39\.png and 0 more images .* this run"):
        compare_runs(mine, mine.take(np.arange(39)), settings)
    with pytest.raises(ConfigError, match=r"ünï, 39\.png and 0 more images .* the other run"):
        compare_runs(mine.take(np.arange(39)), mine, settings)
    targets = mine.targets.copy()
    targets[4] = targets[4, ::-1]
    with pytest.raises(ConfigError, match=r"ünï, 4\.png and 0 more images have another truth"):
        compare_runs(mine, replace(mine, targets=targets), settings)
    with pytest.raises(ConfigError, match=r"the classes no, yes, this one benign, malignant"):
        compare_runs(mine, diagnosis(("no", "yes")), settings)
    with pytest.raises(ConfigError, match=r"one diagnoses, one segments"):
        compare_runs(mine, segmentation(), settings)
    with pytest.raises(ConfigError, match=r"config\.evaluation\.replicates=0"):
        compare_runs(mine, mine, replace(settings, replicates=0))


def test_readers_meet_the_models_calls_on_the_images_they_read(tmp_path, diagnosis, settings):
    mine = diagnosis()
    result = evaluate_diagnosis(mine, settings, {})
    path = tmp_path / "readers.csv"
    lines = [f'"{name}",Ann,{row % 2}' for row, name in enumerate(mine.names[:10])]
    path.write_text("\n".join(["image,reader,call", *lines]))
    found = read_and_compare(path, mine, result)
    assert list(found) == ["malignant"]
    ((ann,),) = found.values()
    assert (ann.num_rows, ann.sensitivity.value, ann.specificity.value) == (10, 1, 1)
    positive = np.flatnonzero(mine.labels[:10] == 1)
    assert ann.model_sensitivity == wilson(int(mine.called[positive, 1].sum()), 5)


def test_readers_of_several_classes_have_a_result_for_each(tmp_path, diagnosis, settings):
    mine = diagnosis(("a", "b", "c"))
    path = tmp_path / "readers.csv"
    path.write_text(f'image,reader,call\n"{mine.names[0]}",Ann,a\n')
    result = evaluate_diagnosis(mine, settings, {})
    assert list(read_and_compare(path, mine, result)) == ["a", "b", "c"]
    path.write_text("image,reader,call\nnone.png,Ann,a\n")
    with pytest.raises(DataError, match=r"readers\.csv.*\n.*none\.png"):
        read_and_compare(path, mine, result)
    findings = diagnosis(kind="multi")
    with pytest.raises(ConfigError, match=r"several findings"):
        read_and_compare(path, findings, result)
