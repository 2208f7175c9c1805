"""What decides on the validation split, and what where it is undefined."""

from types import SimpleNamespace

import numpy as np
import pytest

from ufm_jax.data.labelled import Task
from ufm_jax.train.downstream.choice import choose, figures_of


def validation(labels, targets=None):
    """What ``choose`` reads of data all of whose rows are for validation."""
    return SimpleNamespace(
        task=Task("single" if targets is None else "multi", ("a", "b", "c")),
        labels=np.asarray(labels),
        targets=np.eye(3)[labels] if targets is None else np.asarray(targets),
        rows=lambda split: np.arange(len(labels) if split == "val" else 0),
    )


def test_an_undefined_figure_gives_way_to_the_next_and_equals_to_the_lower_loss():
    data = validation([0, 0, 0])
    sure, unsure, wrong = np.eye(3)[[0, 0, 0]], np.full((3, 3), 0.25), np.eye(3)[[1, 1, 1]]
    unsure[:, 0] = 0.5
    choice = choose("k", (1, 5, 9), lambda rows: [wrong, unsure, sure], data, "auto")
    assert choice.chosen == {
        **{"k": 9, "by": "balanced_accuracy", "note": "", "auroc": None},
        **{"balanced_accuracy": 1.0, "loss": pytest.approx(0, abs=1e-6)},
    }
    choice = choose("k", (1, 5, 9), lambda rows: [unsure, sure, sure], data, "balanced_accuracy")
    assert (choice.position, len(choice.table)) == (1, 3)


def test_the_loss_is_the_mean_over_known_labels_and_finite_for_votes_of_zero():
    unknown = [[1, np.nan, np.nan], [0, 1, np.nan]]
    data = validation([-1, -1], unknown)
    probabilities = np.array([[0.5, 0.9, 0.9], [0.75, 0.125, 0.9]])
    expected = -np.log([0.5, 0.25, 0.125]).mean()
    assert figures_of(probabilities, data, np.arange(2))["loss"] == pytest.approx(expected)
    single = figures_of(np.eye(3)[[1]], validation([0]), np.arange(1))
    assert 10 < single["loss"] < 20
    assert np.isnan(single["auroc"])


def test_last_chooses_nothing_and_says_so():
    choice = choose("C", (1.0,), lambda rows: pytest.fail("looked"), validation([0]), "last")
    note = "not chosen: config.evaluation.select='last'"
    assert choice == (0, {"C": 1.0, "by": "", "note": note}, ())
