"""Measurements on predicted masks as a configuration asks for them, and their true values."""

import numpy as np

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.data.cells import positive
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.labels.spacing import read_attribute
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.biometry import angle_of_progression, fit_mask

_KEYS = {
    "": (),
    "head_circumference": ("measured_class",),
    "angle_of_progression": ("measured_class", "second_class"),
}
"""The keys that name the classes each measurement needs, in order."""


def measured_numbers(settings: EvaluationConfig, classes: tuple[str, ...]) -> tuple[int, ...]:
    """The class numbers in a mask that the measurement needs, in its order.

    Args:
        settings: The measurement, and names of classes; '' names the first and the second class.
        classes: C names, for the numbers 1..C.

    Raises:
        ConfigError: If the task lacks a class, or two names are the same.
    """
    numbers: list[int] = []
    for place, key in enumerate(_KEYS[settings.measurement]):
        name = getattr(settings, key) or (classes[place] if place < len(classes) else "")
        if name not in classes or classes.index(name) + 1 in numbers:
            raise ConfigError(
                f"config.evaluation.{key}={getattr(settings, key)!r}: "
                f"{settings.measurement!r} needs {len(_KEYS[settings.measurement])} of the classes "
                f"{', '.join(classes)}, a different one for each key"
            )
        numbers.append(classes.index(name) + 1)
    return tuple(numbers)


def measure(
    mask: np.ndarray, spacing: float, settings: EvaluationConfig, classes: tuple[str, ...]
) -> float:
    """The measurement on one mask: a circumference in mm or an angle in degrees.

    Args:
        mask: uint8 [h, w], class numbers at the size of the file.
        spacing: mm per pixel; nan = unknown, which an angle does not need.
        settings: What is measured, on which classes, and where outlines lie.
        classes: C names, for the numbers 1..C.

    Returns:
        nan if a class is not shown or too small for an ellipse, or the spacing of a length is
        unknown.

    Raises:
        ConfigError: See ``measured_numbers``.
        ValueError: If nothing is to be measured.
    """
    shown = [mask == number for number in measured_numbers(settings, classes)]
    if not shown:
        raise ValueError("config.evaluation.measurement='': there is nothing to measure")
    try:
        if settings.measurement == "angle_of_progression":
            return angle_of_progression(shown[0], shown[1])
        if np.isnan(spacing):
            return np.nan
        return fit_mask(shown[0], spacing, settings.outline).circumference
    except ValueError:  # Masks that no ellipse fits, or a head around the symphysis' lower end.
        return np.nan


def reference_of(data: LabelledData, rows: np.ndarray, settings: EvaluationConfig) -> np.ndarray:
    """The true measurements of rows, float64 [R]; nan = unknown.

    Raises:
        ConfigError: If no image of the data has the key that should hold them.
        DataError: If a measurement is not a positive number.
    """
    key = settings.reference_key
    if not any(key in attributes for attributes in data.attributes):
        known = sorted(set().union(*data.attributes))
        raise ConfigError(
            f"config.evaluation.reference_key={key!r}: no image has it; the columns are "
            f"{', '.join(known) or 'none'}; name one of them, or set config.evaluation.measurement="
            "''"
        )
    found = [read_attribute(data.attributes[row], key, positive, data.names[row]) for row in rows]
    return np.array(found, np.float64)
