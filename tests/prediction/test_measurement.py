"""Measurements on masks: classes by name, unknown spacing, and true values from the notes."""

from types import SimpleNamespace

import numpy as np
import pytest

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.errors import ConfigError, DataError
from ufm_jax.evaluation.biometry import angle_of_progression, fit_mask
from ufm_jax.prediction.measurement import measure, measured_numbers, reference_of

CLASSES = ("symphysis", "head")
ROWS, COLUMNS = np.ogrid[:96, :128]
SYMPHYSIS = ((ROWS - 20) / 6) ** 2 + ((COLUMNS - 30) / 18) ** 2 <= 1
HEAD = ((ROWS - 60) / 25) ** 2 + ((COLUMNS - 80) / 30) ** 2 <= 1
MASK = (SYMPHYSIS + 2 * HEAD).astype(np.uint8)
ANGLE = EvaluationConfig(measurement="angle_of_progression")


@pytest.mark.parametrize("outline", ["edges", "pixels"])
def test_a_circumference_is_that_of_the_named_class(outline):
    settings = EvaluationConfig(
        measurement="head_circumference", measured_class="head", outline=outline
    )
    assert measure(MASK, 0.4, settings, CLASSES) == fit_mask(HEAD, 0.4, outline).circumference


def test_an_angle_takes_the_first_and_second_class_unless_named():
    expected = angle_of_progression(SYMPHYSIS, HEAD)
    assert measure(MASK, np.nan, ANGLE, CLASSES) == expected
    swapped = EvaluationConfig(
        measurement="angle_of_progression", measured_class="pubis", second_class="skull"
    )
    turned = np.choose(MASK, (0, 2, 1))
    assert measure(turned, np.nan, swapped, ("skull", "pubis")) == expected


def test_what_cannot_be_measured_is_nan():
    settings = EvaluationConfig(measurement="head_circumference", measured_class="head")
    assert np.isnan(measure(MASK, np.nan, settings, CLASSES))
    assert np.isnan(measure(np.zeros_like(MASK), 0.4, settings, CLASSES))
    assert np.isnan(measure(HEAD.astype(np.uint8), 0.4, ANGLE, CLASSES))


@pytest.mark.parametrize(
    ("changes", "classes", "key"),
    [
        ({"measured_class": "skull"}, CLASSES, "measured_class='skull'"),
        ({"second_class": "skull"}, CLASSES, "second_class='skull'"),
        ({"measured_class": "head"}, CLASSES, "second_class=''"),
        ({}, ("head",), "second_class=''"),
    ],
)
def test_classes_that_do_not_fit_are_refused_by_key(changes, classes, key):
    settings = EvaluationConfig(measurement="angle_of_progression", **changes)
    with pytest.raises(ConfigError, match=rf"config\.evaluation\.{key}"):
        measured_numbers(settings, classes)


def truths(*texts):
    attributes = ({}, *({"HC_mm": text} for text in texts))
    names = tuple(f"{row}.png" for row in range(len(attributes)))
    data = SimpleNamespace(attributes=attributes, names=names)
    return reference_of(data, np.arange(len(attributes)), EvaluationConfig())


def test_true_values_are_read_as_a_spreadsheet_writes_them_and_missing_ones_are_nan():
    found = truths("250.5", "", "n/a", "44,3", "nan", " 12 ")
    np.testing.assert_array_equal(found, [np.nan, 250.5, np.nan, np.nan, 44.3, np.nan, 12])


@pytest.mark.parametrize("text", ["-3", "0", "inf", "44.3 mm", "44,300", "about 44"])
def test_a_true_value_that_is_no_positive_number_is_refused_by_image_and_column(text):
    with pytest.raises(DataError, match=rf"2\.png: HC_mm '{text}'"):
        truths("250", text)


def test_a_key_that_no_image_has_is_refused_by_name():
    data = SimpleNamespace(attributes=({"age": "30"}, {"aop": "112"}))
    with pytest.raises(ConfigError, match=r"reference_key='HC_mm': no image has it; .* age, aop"):
        reference_of(data, np.arange(2), EvaluationConfig())
