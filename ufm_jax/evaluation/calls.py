"""From scores to calls: the thresholds, and the one rule that evaluation and prediction share."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.predictions import DiagnosisPredictions, Predictions
from ufm_jax.evaluation.thresholds import HALF, Threshold, choose_threshold

_UNCHOSEN = Threshold(HALF.value, "none chosen: no validation split")


def make_calls(
    probabilities: np.ndarray,
    kind: Literal["single", "multi"],
    classes: Sequence[str],
    thresholds: Mapping[str, Threshold],
) -> np.ndarray:
    """The calls that scores lead to, by the one rule of evaluation and prediction.

    Args:
        probabilities: [R, C].
        kind: 'multi' calls every finding that reaches its threshold, 'single' one class a row.
        classes: C names.
        thresholds: Finding -> threshold, for every finding. For two classes that of one of them:
            the other is called below it. Empty: the most probable class is called, or the first of
            equally probable ones.

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


def with_calls(
    predictions: DiagnosisPredictions,
    settings: EvaluationConfig,
    thresholds: Mapping[str, Threshold],
) -> DiagnosisPredictions:
    """The predictions, with the classes that the model calls filled in.

    Args:
        predictions: Probabilities.
        settings: The positive class.
        thresholds: See ``choose_thresholds``.

    Raises:
        ConfigError: See ``calling_thresholds``.
    """
    kind, classes = predictions.kind, predictions.classes
    used = calling_thresholds(kind, classes, settings, thresholds)
    return replace(predictions, called=make_calls(predictions.probabilities, kind, classes, used))


def calling_thresholds(
    kind: Literal["single", "multi", "segment"],
    classes: tuple[str, ...],
    settings: EvaluationConfig,
    thresholds: Mapping[str, Threshold],
) -> dict[str, Threshold]:
    """The thresholds that calls are made with: of the positive class of two, or of each finding.

    Args:
        kind: The kind of the task.
        classes: C names.
        settings: The positive class, and whether the threshold is one half.
        thresholds: Class -> the threshold that was chosen for it; 0.5 for the others.

    Returns:
        Class -> threshold; empty for more than two classes, where the most probable is called.

    Raises:
        ConfigError: If the task lacks the positive class, or the threshold is of another class.
    """
    names = _classes_with_threshold(kind, classes, settings, thresholds)
    if settings.threshold == "half":
        return dict.fromkeys(names, HALF)
    return {name: thresholds.get(name, _UNCHOSEN) for name in names}


def choose_thresholds(
    predictions: Predictions | None, settings: EvaluationConfig
) -> dict[str, Threshold]:
    """Chooses thresholds on the validation split: of the positive class of two, or of each finding.

    Args:
        predictions: For the validation split; None without such a split.
        settings: The rule, and the positive class.

    Returns:
        Class -> threshold. It is 0.5, with the reason, if all rows of the split have the class or
        all lack it. Empty for masks, for more than two classes, where the most probable is called,
        and without a validation split.

    Raises:
        ConfigError: If the task lacks the positive class.
    """
    if not isinstance(predictions, DiagnosisPredictions):
        return {}
    p = predictions
    names = _classes_with_threshold(p.kind, p.classes, settings, ())
    numbers = {name: p.classes.index(name) for name in names}
    return {
        name: _choose(p.probabilities[:, c], p.targets[:, c], settings)
        for name, c in numbers.items()
    }


def positive_class(settings: EvaluationConfig, classes: tuple[str, ...]) -> str:
    """The class of two that is looked for: the one that ``settings`` name, else the second.

    Raises:
        ConfigError: If no class has this name.
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
