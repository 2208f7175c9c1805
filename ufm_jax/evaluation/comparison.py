"""Comparisons of a model with another run on the same images, and with readers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.binary import measure_class
from ufm_jax.evaluation.calls import positive_class
from ufm_jax.evaluation.cases import one_vs_rest
from ufm_jax.evaluation.intervals import Bootstrap, Measure, measure_mean
from ufm_jax.evaluation.macro import measure_macro, measure_whole
from ufm_jax.evaluation.paired_tests import Comparison, delong_test, paired_bootstrap
from ufm_jax.evaluation.predictions import (
    DiagnosisPredictions,
    Predictions,
    SegmentationPredictions,
)
from ufm_jax.evaluation.readers import ReaderResult, compare_readers, read_calls
from ufm_jax.evaluation.results import DiagnosisResult

_DIAGNOSIS = ("balanced_accuracy", "auroc", "accuracy")
_MASKS = ("dice", "hd95_px", "hd95_mm")


@dataclass(frozen=True)
class RunComparison:
    """Two models on the same R images; first = this run, second = the other.

    Attributes:
        num_rows: R.
        num_groups: Groups (patients) that were resampled.
        figures: Name -> paired comparison. A diagnosis has balanced_accuracy, auroc (macro) and
            accuracy, and with two classes auroc_delong. A segmentation has the means over classes
            dice, hd95_px and hd95_mm. A measurement has mae_<unit>, over the images that both runs
            could measure.
        left_out: Figure -> why it could not be compared.
    """

    num_rows: int
    num_groups: int
    figures: Mapping[str, Comparison]
    left_out: Mapping[str, str]


def compare_runs(
    mine: Predictions, other: Predictions, settings: EvaluationConfig, *, seed: int = 0
) -> RunComparison:
    """Compares the figures of two models, paired by image, over resamples of groups.

    Each run's calls are those that it made at its own thresholds.

    Args:
        mine: This run's predictions, whose groups are resampled.
        other: The other run's predictions for the same images, in any order.
        settings: The number of resamples, and the positive class.
        seed: Seed of the resamples.

    Raises:
        ConfigError: If the images, classes or truths differ, or no resamples are configured.
    """
    if not settings.replicates:
        raise ConfigError(
            "config.evaluation.replicates=0: a comparison needs resamples; use 2000, or compare "
            "with no run"
        )
    bootstrap = Bootstrap(settings.replicates, seed=seed, name="comparison")
    if isinstance(mine, DiagnosisPredictions) and isinstance(other, DiagnosisPredictions):
        found = _compare_diagnosis(mine, other.take(_matching(mine, other)), settings, bootstrap)
    elif isinstance(mine, SegmentationPredictions) and isinstance(other, SegmentationPredictions):
        found = _compare_masks(mine, other.take(_matching(mine, other)), bootstrap)
    else:
        raise ConfigError("the other run has another task: one diagnoses, one segments")
    return RunComparison(len(mine.names), len(np.unique(mine.groups)), *found)


def read_and_compare(
    path: Path, predictions: DiagnosisPredictions, result: DiagnosisResult
) -> dict[str, tuple[ReaderResult, ...]]:
    """Compares readers' calls from a CSV with the model's, on the images that each reader read.

    Args:
        path: The CSV; see ``evaluation.readers``.
        predictions: The model's predictions, with calls.
        result: Their evaluation, which says the classes that are looked for.

    Returns:
        Class -> a result for each reader, the class against the rest.

    Raises:
        ConfigError: If images may have several findings.
        DataError: If the file cannot be used.
    """
    if predictions.kind == "multi":
        raise ConfigError(f"{path}: readers give an image one class; here it has several findings")
    classes, called = predictions.classes, predictions.calls()
    read = read_calls(path, predictions.names, classes, result.positive or None)
    numbers = {name: classes.index(name) for name in result.per_class}
    return {
        name: compare_readers(read, predictions.labels, called[:, number], number)
        for name, number in numbers.items()
    }


_Found = tuple[Mapping[str, Comparison], Mapping[str, str]]
"""Name -> comparison, and name -> why a figure was left out."""


def _matching(mine: Predictions, other: Predictions) -> np.ndarray:
    """The row of each of this run's images in the other run, int64 [R]."""
    if mine.classes != other.classes:
        raise ConfigError(
            f"the other run has the classes {', '.join(other.classes)}, this one "
            f"{', '.join(mine.classes)}: only the same task can be compared"
        )
    rows = {name: row for row, name in enumerate(other.names)}
    for missing, where in (
        ([name for name in mine.names if name not in rows], "this run"),
        (sorted(rows.keys() - set(mine.names)), "the other run"),
    ):
        if missing:
            raise ConfigError(
                f"{missing[0]} and {len(missing) - 1} more images are among those of {where} "
                "alone: compare runs on the same split of the same data"
            )
    order = np.array([rows[name] for name in mine.names])
    odd = ~np.isclose(mine.truth, other.truth[order], rtol=0, atol=0, equal_nan=True).all(1)
    if odd.any():
        raise ConfigError(
            f"{mine.names[odd.argmax()]} and {int(odd.sum()) - 1} more images have another truth "
            "in the other run: compare runs on the same labels and masks"
        )
    return order


def _compare_diagnosis(
    mine: DiagnosisPredictions,
    other: DiagnosisPredictions,
    settings: EvaluationConfig,
    bootstrap: Bootstrap,
) -> _Found:
    first, second = (_measure_diagnosis(one, settings) for one in (mine, other))
    figures, left_out = _paired(first, second, _DIAGNOSIS, mine.groups, bootstrap)
    if mine.kind == "single" and len(mine.classes) == 2:
        number = mine.classes.index(positive_class(settings, mine.classes))
        score, other_score = (one.probabilities[:, number] for one in (mine, other))
        try:
            test = delong_test(mine.labels == number, score, other_score, mine.groups)
            figures = {**figures, "auroc_delong": test}
        except ValueError as error:  # Too few groups that show a class.
            left_out = {**left_out, "auroc_delong": str(error)}
    return figures, left_out


def _measure_diagnosis(predictions: DiagnosisPredictions, settings: EvaluationConfig) -> Measure:
    """The figures of ``evaluation.diagnosis``, at the calls that the run made."""
    p, called = predictions, predictions.calls()
    against = one_vs_rest(p.probabilities, p.targets, p.classes, called)
    if p.kind == "multi":
        return measure_macro(against)
    if len(p.classes) == 2:
        return measure_class(against[p.classes.index(positive_class(settings, p.classes))])
    whole = measure_whole(p.probabilities, p.labels, called.argmax(1))
    return measure_macro(against, whole)


def _compare_masks(
    mine: SegmentationPredictions, other: SegmentationPredictions, bootstrap: Bootstrap
) -> _Found:
    values, others = _by_image(mine), _by_image(other)
    figures: dict[str, Comparison] = {}
    left_out = dict.fromkeys(values.keys() ^ others.keys(), "only one of the runs has it")
    for name in (name for name in values if name in others):
        rows = np.isfinite(values[name]) & np.isfinite(others[name])
        first, second = (measure_mean({name: one[name][rows]}) for one in (values, others))
        found, reasons = _paired(first, second, (name,), mine.groups[rows], bootstrap)
        figures |= found
        left_out |= reasons
    return figures, left_out


def _by_image(predictions: SegmentationPredictions) -> dict[str, np.ndarray]:
    """Name -> values [R] whose means are compared; nan = the image does not count."""
    values = {name: getattr(predictions.scores, name).mean(1) for name in _MASKS}
    if predictions.measured is not None and predictions.reference is not None:
        # The name has the unit, since errors in mm and in degrees cannot be compared.
        errors = np.abs(predictions.measured - predictions.reference)
        values[f"mae_{predictions.unit}"] = errors
    return values


def _paired(
    first: Measure,
    second: Measure,
    names: tuple[str, ...],
    groups: np.ndarray,
    bootstrap: Bootstrap,
) -> _Found:
    """Compares the named figures, if there are groups to resample."""
    count = len(np.unique(groups))
    if count < 2:
        reason = f"both runs have it for images of {count} groups: a comparison needs two groups"
        return {}, dict.fromkeys(names, reason)
    found = paired_bootstrap(first, second, groups, bootstrap)
    return {name: found[name] for name in names}, {}
