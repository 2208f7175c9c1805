"""What an evaluation says beside its figures."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from ufm_jax.data.issues import DataIssues, Issue
from ufm_jax.data.labels.task import Task
from ufm_jax.evaluation.written import evaluate_predictions


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
