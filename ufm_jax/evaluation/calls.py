"""From scores to calls: the thresholds, and the one rule for evaluation and prediction alike."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.predictions import DiagnosisPredictions
from ufm_jax.evaluation.thresholds import HALF, Threshold, choose_threshold

_UNCHOSEN = Threshold(HALF.value, "none chosen: no validation split")


def called(
    probabilities: np.ndarray,
    kind: Literal["single", "multi"],
    classes: Sequence[str],
    thresholds: Mapping[str, Threshold],
) -> np.ndarray:
    """The one rule that makes calls of scores.

    Args:
        probabilities: [R, C].
        kind: 'multi' calls every finding that reaches its threshold, 'single' one class a row.
        classes: C names.
        thresholds: Of each finding; of two classes that of one, and the other is called below it;
            without, the most probable class is called, of equals the first.

    Returns:
        bool [R, C].
    """
    # In double precision, as figures are computed: a threshold is a probability that occurs.
    found = np.asarray(probabilities, np.float64)
    if kind == "multi":
        return found >= np.array([thresholds[name].value for name in classes])
    number = found.argmax(1)
    for name, threshold in thresholds.items():
        c = classes.index(name)
        number = np.where(found[:, c] >= threshold.value, c, 1 - c)
    return number[:, None] == np.arange(len(classes))


def call(
    predictions: DiagnosisPredictions,
    settings: EvaluationConfig,
    thresholds: Mapping[str, Threshold],
) -> DiagnosisPredictions:
    """The predictions with the classes that the model calls.

    Args:
        predictions: Probabilities.
        settings: The positive class.
        thresholds: See ``choose_thresholds``.

    Raises:
        ConfigError: If the positive class is none of the task, or another one has the threshold.
    """
    kind, classes = predictions.kind, predictions.classes
    used = calling_thresholds(kind, classes, settings, thresholds)
    return replace(predictions, called=called(predictions.probabilities, kind, classes, used))


def calling_thresholds(
    kind: Literal["single", "multi", "segment"],
    classes: tuple[str, ...],
    settings: EvaluationConfig,
    thresholds: Mapping[str, Threshold],
) -> dict[str, Threshold]:
    """From which probability a class is called: of two classes the positive one, or each finding.

    Args:
        kind: Of the task.
        classes: C names.
        settings: The positive class, and whether the threshold is one half.
        thresholds: Those that were chosen, by class; 0.5 where there is none.

    Returns:
        Empty for more than two classes, of which the most probable is called.

    Raises:
        ConfigError: If the positive class is none of the task, or another one has the threshold.
    """
    names = _classes_with_threshold(kind, classes, settings, thresholds)
    if settings.threshold == "half":
        return dict.fromkeys(names, HALF)
    return {name: thresholds.get(name, _UNCHOSEN) for name in names}


def choose_thresholds(
    predictions: DiagnosisPredictions | None, settings: EvaluationConfig
) -> dict[str, Threshold]:
    """From which probability a class is called: of two classes the positive one, or each finding.

    Args:
        predictions: For the validation split; None where there is none.
        settings: The rule, and the positive class.

    Returns:
        Class -> threshold; 0.5 and why where the split does not show both what has the class and
        what has it not. Empty for more than two classes, of which the most probable is called, and
        without a validation split.

    Raises:
        ConfigError: If the positive class is none of the task.
    """
    if predictions is None:
        return {}
    p = predictions
    names = _classes_with_threshold(p.kind, p.classes, settings, ())
    numbers = {name: p.classes.index(name) for name in names}
    return {
        name: _choose(p.probabilities[:, c], p.targets[:, c], settings)
        for name, c in numbers.items()
    }


def positive_class(settings: EvaluationConfig, classes: tuple[str, ...]) -> str:
    """The class looked for, of two: the one that is named, else the second.

    Raises:
        ConfigError: If there is none of this name.
    """
    name = settings.positive or classes[1]
    if name not in classes:
        raise ConfigError(
            f"config.evaluation.positive={name!r}: the classes are {', '.join(classes)}; name one "
            "of them"
        )
    return name


def _classes_with_threshold(
    kind: Literal["single", "multi", "segment"],
    classes: tuple[str, ...],
    settings: EvaluationConfig,
    chosen: Collection[str],
) -> tuple[str, ...]:
    """The classes whose call a threshold decides; ``chosen`` are those that have one already."""
    if kind == "multi":
        return classes
    if len(classes) != 2:
        return ()
    name = positive_class(settings, classes)
    if chosen and name not in chosen and settings.threshold != "half":
        raise ConfigError(
            f"config.evaluation.positive={settings.positive!r}: the run chose a threshold for "
            f"{', '.join(chosen)}; name this class, or set config.evaluation.threshold='half' too"
        )
    return (name,)


def _choose(
    probabilities: np.ndarray, targets: np.ndarray, settings: EvaluationConfig
) -> Threshold:
    """The threshold of one class, on the rows [R] where it is known."""
    if settings.threshold == "half":
        return HALF
    known = ~np.isnan(targets)
    positive = targets[known] == 1
    if positive.all() or not positive.any():
        show = "have" if positive.any() else "lack"
        return Threshold(HALF.value, f"none chosen: all {len(positive)} rows of val {show} it")
    return choose_threshold(
        probabilities[known], positive, settings.threshold, at_least=settings.sensitivity
    )
