"""What a number is chosen on, what decides, and what where it is undefined."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.data.labels.task import Task
from ufm_jax.finetuning.probes.hyperparameter import choose_value, figures_of, validation_of


def validation(labels, targets=None):
    """What ``choose_value`` reads of data all of whose rows are for validation."""
    return SimpleNamespace(
        task=Task("single" if targets is None else "multi", ("a", "b", "c")),
        labels=np.asarray(labels),
        targets=np.eye(3)[labels] if targets is None else np.asarray(targets),
        rows=lambda split: np.arange(len(labels) if split == "val" else 0),
    )


def chosen(name, values, found, data, select):
    """``choose_value`` where each value's probabilities are given."""
    validation = validation_of(data, np.zeros(0, np.int64), select)
    return choose_value(name, values, lambda fitted, asked: found, data, validation, select)


def training(labels, groups):
    """What ``validation_of`` reads of data all of whose rows are for training."""
    return SimpleNamespace(
        targets=np.eye(3)[labels],
        groups=np.asarray(groups),
        group_names=tuple(map(str, range(max(groups) + 1))),
        rows=lambda split: np.zeros(0, np.int64),
    )


def test_an_undefined_figure_gives_way_to_the_next_and_equals_to_the_lower_loss():
    data = validation([0, 0, 0])
    sure, unsure, wrong = np.eye(3)[[0, 0, 0]], np.full((3, 3), 0.25), np.eye(3)[[1, 1, 1]]
    unsure[:, 0] = 0.5
    choice = chosen("k", (1, 5, 9), [wrong, unsure, sure], data, "auto")
    assert choice.chosen == {
        **{"k": 9, "by": "balanced_accuracy", "auroc": None},
        **{"note": "on the validation split"},
        **{"balanced_accuracy": 1.0, "loss": pytest.approx(0, abs=1e-6)},
    }
    choice = chosen("k", (1, 5, 9), [unsure, sure, sure], data, "balanced_accuracy")
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
    choice = chosen("C", (1.0,), None, validation([0]), "last")
    note = "not chosen: config.evaluation.select='last'"
    assert choice == (0, {"C": 1.0, "by": "", "note": note}, ())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7)), min_size=2, max_size=40))
def test_each_training_row_is_asked_once_of_a_fit_that_saw_nothing_of_its_group(drawn):
    labels, groups = map(list, zip(*drawn, strict=True))
    rows = np.arange(len(drawn))[::-1]
    parts = validation_of(training(labels, groups), rows, "auto").parts
    if parts:
        asked = np.concatenate([asked for _, asked in parts])
        np.testing.assert_array_equal(np.sort(asked), rows[::-1])
    for fitted, asked in parts:
        np.testing.assert_array_equal(np.union1d(fitted, asked), rows[::-1])
        assert not set(np.take(groups, fitted)) & set(np.take(groups, asked))
        assert len(set(np.take(labels, fitted))) > 1


def test_folds_hold_each_class_where_it_has_groups_enough():
    data = training([0] * 10 + [1] * 5, list(range(15)))
    parts = validation_of(data, np.arange(15), "auto").parts
    assert [np.sum(asked >= 10) for _, asked in parts] == [1] * 5


@pytest.mark.parametrize("groups", [[0, 0, 0, 0], [0, 0, 1, 1]])
def test_too_few_groups_leave_nothing_to_choose_on(groups):
    """One group leaves no rest, and with two groups the rest shows one class alone."""
    validation = validation_of(training([0, 0, 1, 1], groups), np.arange(4), "auto")
    assert validation == (
        (),
        "not chosen: there is no validation split, and too few groups to cross-validate",
    )
