"""The evaluation's page shows every figure where it is, and nothing that is not."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from ufm_jax.data.labels.task import Task
from ufm_jax.evaluation.biometry import measurement_errors
from ufm_jax.evaluation.cases import binary_cases, multiclass_cases
from ufm_jax.evaluation.diagnosis import diagnose
from ufm_jax.evaluation.evaluation_json import Evaluation, MeasurementErrors
from ufm_jax.evaluation.intervals import Bootstrap
from ufm_jax.evaluation.segmentation import MaskScores, score_masks, summarise
from ufm_jax.report.evaluation_charts import roc_chart
from ufm_jax.report.evaluation_page import render
from ufm_jax.report.evaluation_pictures import heated, outlined
from ufm_jax.report.evaluation_types import EvaluationPicture, EvaluationReport, Training
from ufm_jax.report.page import write_page

BOOTSTRAP = Bootstrap(60)
TASK = Task("single", ("a<b", "c", "d"))


def diagnosis(rows: int = 60, classes: tuple[str, ...] = TASK.classes):
    rng = np.random.default_rng(4)
    labels = np.arange(rows) % len(classes)
    logits = rng.normal(size=(rows, len(classes))) + 1.5 * np.eye(len(classes))[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if len(classes) == 2:
        cases = binary_cases(probabilities, labels, classes, classes[0])
    else:
        cases = multiclass_cases(probabilities, labels, classes)
    return diagnose(cases, np.arange(rows) // 2, BOOTSTRAP)


def segmentation():
    rng = np.random.default_rng(5)
    masks = rng.integers(0, 2, (6, 2, 12, 12))
    scores = MaskScores.stack([score_masks(p, t, 1) for p, t in masks])
    return summarise(scores, ("head",), groups=np.arange(6), bootstrap=BOOTSTRAP)


def report(evaluation: Evaluation, **changes) -> EvaluationReport:
    return EvaluationReport(
        **{
            "evaluation": evaluation,
            "created": "2026-01-01",
            "facts": [("encoder", "ViT-Ti/16")],
            "training": Training([1.0, 0.7, 0.5], [1, 2, 3], [0.6, 0.9, 0.8], "auroc", 2),
            "pictures": [],
            "issues": {},
            "config": {"seed": 0},
            "versions": {"jax": "0"},
            **changes,
        }
    )


class Checker(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def text_of(page: str) -> str:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return " ".join(checker.text)


def test_every_figure_is_on_the_page_with_its_interval():
    result = diagnosis()
    text = text_of(render(report(Evaluation("run <1>", TASK, {"val": result, "test": result}))))
    for figure in result.overall.values():
        assert f"{figure.value:.3f}" in text
        assert f"{figure.low:.3f} to {figure.high:.3f}" in text
    for count in result.confusion.ravel():
        assert str(int(count)) in text
    assert "run <1>" in text
    assert "a<b" in text
    assert "The model after 2 rounds of 3 was taken." in text
    assert "Examples" not in text
    assert "Measurement" not in text


def test_names_cannot_become_markup():
    page = render(report(Evaluation("<script>x</script>", TASK, {"test": diagnosis()})))
    assert "<script>x" not in page
    assert "a&lt;b" in page


def test_the_curve_is_drawn_where_its_points_are():
    result = diagnosis(classes=("sick", "well"))
    curve = result.curves["sick"].roc
    path = re.search(r'<path[^>]* d="([^"]+)"[^>]*class="curve"', str(roc_chart("sick", curve)))
    path = path or re.search(r'class="curve"[^>]* d="([^"]+)"', str(roc_chart("sick", curve)))
    points = [tuple(map(float, p.split(","))) for p in re.findall(r"[\d.]+,[\d.]+", path[1])]
    assert len(points) == len(curve.thresholds)
    left, right, bottom, top = 46, 328, 300, 24
    for (x, y), fpr, tpr in zip(
        points, curve.false_positive_rate, curve.true_positive_rate, strict=True
    ):
        assert x == pytest.approx(left + fpr * (right - left), abs=0.01)
        assert y == pytest.approx(bottom - tpr * (bottom - top), abs=0.01)


def test_what_is_undefined_says_why():
    result = diagnosis()
    missing = replace(result.overall["auroc"], value=np.nan, low=np.nan, high=np.nan, note="no c")
    undefined = replace(result, overall={**result.overall, "auroc": missing})
    text = text_of(render(report(Evaluation("run", TASK, {"test": undefined}))))
    assert "test: no c (AUROC)" in text


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_undefined_figures_are_drawn_as_undefined(missing):
    nothing = np.full(3, missing)
    result = diagnosis(classes=("sick", "well"))
    curves = result.curves["sick"]
    gone = {
        part: replace(curve, **{key: np.full(len(getattr(curve, key)), missing) for key in keys})
        for part, curve, keys in (
            ("roc", curves.roc, ("false_positive_rate", "true_positive_rate")),
            ("precision_recall", curves.precision_recall, ("recall", "precision")),
            ("calibration", curves.calibration, ("predicted", "observed")),
        )
    }
    none = {
        name: replace(figure, value=missing, low=missing, high=missing)
        for name, figure in result.overall.items()
    }
    undefined = replace(result, overall=none, curves={"sick": replace(curves, **gone)})
    page = render(
        report(
            Evaluation("run", TASK, {"test": undefined}),
            training=Training(nothing, [1, 2, 3], nothing, "auroc", 3),
            measured={"test": (nothing, nothing)},
        )
    )
    text = text_of(page)
    assert "AUROC on the validation split is undefined after every round." in text
    assert not re.search(r"\b(nan|inf)\b", text), "an en dash stands for what is undefined"


def test_a_measurement_is_shown_with_its_plots():
    rng = np.random.default_rng(6)
    reference = rng.uniform(100, 300, 30)
    measured = reference + rng.normal(2, 5, 30)
    measured[3] = np.nan
    errors = measurement_errors(
        measured, reference, unit="mm", groups=np.arange(30), bootstrap=BOOTSTRAP
    )
    evaluation = Evaluation(
        "hc",
        Task("segment", ("head",)),
        {"test": segmentation()},
        measurement={"test": MeasurementErrors(errors, 4)},
    )
    page = render(report(evaluation, measured={"test": (measured, reference)}))
    text = text_of(page)
    assert f"{errors.metrics['mae'].value:.3f}" in text
    assert "in 1 of them nothing could be measured. 4 images have no true value." in text
    assert "Differences over means" in page


def test_outlines_and_maps_lie_where_they_should():
    reference, mask = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    reference[2:8, 2:8], mask[12:18, 12:18] = 1, 1
    drawn = outlined(np.full((20, 20), 50, np.uint8), mask, reference)
    assert drawn[2, 2, 2] > drawn[2, 2, 0], "the reference is blue"
    assert drawn[12, 12, 0] > drawn[12, 12, 2], "the prediction is amber"
    np.testing.assert_array_equal(drawn[5, 5], 50)
    heat = np.zeros((20, 20))
    heat[0, 0], heat[0, 1] = 1.0, -1.0
    shown = heated(np.full((20, 20), 50, np.uint8), heat)
    assert shown[0, 0, 0] > shown[0, 0, 2]
    assert shown[0, 1, 2] > shown[0, 1, 0]
    np.testing.assert_array_equal(shown[5, 5], 50)


def test_the_page_is_written_whole_with_its_pictures(tmp_path):
    picture = EvaluationPicture("Worst", "x.png: Dice 0.1", np.zeros((9, 9, 3), np.uint8))
    evaluation = Evaluation("lesions", Task("segment", ("head",)), {"test": segmentation()})
    page = render(report(evaluation, pictures=[picture], training=None))
    path = write_page(tmp_path, page)
    text = text_of(path.read_text(encoding="utf-8"))
    assert "x.png: Dice 0.1" in text
    assert "Training" not in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    json.dumps(evaluation.to_json())
