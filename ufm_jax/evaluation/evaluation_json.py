"""From predictions to figures, and to the files that a run's folder keeps of them.

A configuration chooses the class looked for, the thresholds and the resamples of each figure.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.config.finetuning import EvaluationConfig, FinetuneConfig
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.biometry import measurement_errors
from ufm_jax.evaluation.calls import calling_thresholds, with_calls
from ufm_jax.evaluation.cases import binary_cases, multiclass_cases, multilabel_cases
from ufm_jax.evaluation.comparison import RunComparison, compare_runs, read_and_compare
from ufm_jax.evaluation.diagnosis import diagnose
from ufm_jax.evaluation.intervals import Bootstrap
from ufm_jax.evaluation.predictions import (
    DiagnosisPredictions,
    Predictions,
    SegmentationPredictions,
)
from ufm_jax.evaluation.predictions_csv import read_table, table_path, write_table
from ufm_jax.evaluation.readers import ReaderResult
from ufm_jax.evaluation.results import DiagnosisResult, MeasurementResult, SegmentationResult
from ufm_jax.evaluation.segmentation import summarise
from ufm_jax.evaluation.thresholds import Threshold
from ufm_jax.files import private_folder, write_json
from ufm_jax.runs.folder import EVALUATION_FILE
from ufm_jax.runs.stored import as_json


@dataclass(frozen=True)
class MeasurementErrors:
    """Errors of what was measured on predicted masks.

    Attributes:
        result: None if no image has both a measurement and a true value.
        without_reference: Images without a true value, which no figure counts.
        note: Why there is no result, or ''.
    """

    result: MeasurementResult | None
    without_reference: int
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """All that is said of a trained model.

    Attributes:
        name: Title of the run.
        task: The task, with its classes.
        splits: Split -> figures.
        thresholds: Class -> threshold chosen on the validation split; empty if none was chosen.
        measurement: Split -> errors of the measurement; empty if nothing is measured.
        comparison: The comparison with another run, or None.
        readers: Class -> readers against the model; empty without readers.
        note: What a reader must know, or ''.
    """

    name: str
    task: Task
    splits: Mapping[str, DiagnosisResult | SegmentationResult]
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    measurement: Mapping[str, MeasurementErrors] = field(default_factory=dict)
    comparison: RunComparison | None = None
    readers: Mapping[str, tuple[ReaderResult, ...]] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Nested dicts and lists that ``json.dumps`` takes as they are."""
        readers = {name: [one.to_json() for one in them] for name, them in self.readers.items()}
        return {
            "name": self.name,
            "kind": self.task.kind,
            "classes": list(self.task.classes),
            "splits": as_json(self.splits),
            "thresholds": as_json(self.thresholds),
            "measurement": as_json(self.measurement),
            "comparison": as_json(self.comparison),
            "readers": readers,
            "note": self.note,
        }


@dataclass(frozen=True)
class CompareWith:
    """What a model is compared with.

    Attributes:
        run: Folder of another run's evaluation of the same images, or None.
        readers: CSV of readers' calls, or None; see ``evaluation.readers``.
        split: The split that is compared.
    """

    run: Path | None = None
    readers: Path | None = None
    split: str = "test"


def evaluate_predictions(
    config: FinetuneConfig,
    data: LabelledData,
    predictions: Mapping[str, Predictions],
    thresholds: Mapping[str, Threshold],
    note: str = "",
    compare_with: CompareWith | None = None,
) -> tuple[Evaluation, dict[str, Predictions]]:
    """All figures of predictions.

    Args:
        config: The positive class, the number of resamples, what is measured, and the seed.
        data: The task.
        predictions: Split -> predictions.
        thresholds: Class -> threshold, chosen on the validation split.
        note: What a reader must know.
        compare_with: What the model is compared with, or None.

    Returns:
        The evaluation, and the predictions with their calls.

    Raises:
        ConfigError: If the model cannot be compared with ``compare_with``.
    """
    settings, seed = config.evaluation, config.seed
    called: dict[str, Predictions] = {}
    splits: dict[str, DiagnosisResult | SegmentationResult] = {}
    measurement = {}
    for split, found in predictions.items():
        if isinstance(found, DiagnosisPredictions):
            called[split] = with_calls(found, settings, thresholds)
            splits[split] = evaluate_diagnosis(found, settings, thresholds, seed=seed)
        else:
            called[split] = found
            splits[split] = evaluate_segmentation(found, settings, seed=seed)
            if errors := evaluate_measurement(found, settings, seed=seed):
                measurement[split] = errors
    comparison, readers = _compare(config, called, splits, compare_with or CompareWith())
    notes = (note, _copies(data), *map(_one_call, called, called.values()))
    evaluation = Evaluation(
        config.name,
        data.task,
        splits,
        thresholds,
        measurement,
        comparison,
        readers,
        " ".join(filter(None, notes)),
    )
    return evaluation, called


def evaluate_diagnosis(
    predictions: DiagnosisPredictions,
    settings: EvaluationConfig,
    thresholds: Mapping[str, Threshold],
    *,
    seed: int = 0,
) -> DiagnosisResult:
    """All figures of a diagnosis.

    Args:
        predictions: For one split.
        settings: The positive class, and the number of resamples.
        thresholds: See ``calls.choose_thresholds``.
        seed: Seed of the resamples.

    Raises:
        ConfigError: See ``calls.calling_thresholds``.
        ValueError: If the predictions are impossible.
    """
    p = predictions
    used = calling_thresholds(p.kind, p.classes, settings, thresholds)
    if p.kind == "multi":
        cases = multilabel_cases(p.probabilities, p.targets, p.classes, used)
    elif used:
        ((positive, threshold),) = used.items()
        cases = binary_cases(p.probabilities, p.labels, p.classes, positive, threshold)
    else:
        cases = multiclass_cases(p.probabilities, p.labels, p.classes)
    return diagnose(cases, p.groups, _bootstrap(settings, seed))


def evaluate_segmentation(
    predictions: SegmentationPredictions, settings: EvaluationConfig, *, seed: int = 0
) -> SegmentationResult:
    """All figures of masks; ``evaluate_measurement`` has those of measurements on them."""
    p, bootstrap = predictions, _bootstrap(settings, seed)
    return summarise(p.scores, p.classes, groups=p.groups, bootstrap=bootstrap)


def evaluate_measurement(
    predictions: SegmentationPredictions, settings: EvaluationConfig, *, seed: int = 0
) -> MeasurementErrors | None:
    """Errors of what was measured on masks; None if nothing was to be measured."""
    if predictions.measured is None or predictions.reference is None:
        return None
    known = np.isfinite(predictions.reference)
    without = int((~known).sum())
    measured = predictions.measured[known]
    if not np.isfinite(measured).any():
        note = f"nothing could be measured on the {len(measured)} images with a true value"
        return MeasurementErrors(None, without, note)
    result = measurement_errors(
        measured,
        predictions.reference[known],
        unit=predictions.unit,
        groups=predictions.groups[known],
        bootstrap=_bootstrap(settings, seed),
    )
    return MeasurementErrors(result, without)


def write_results(
    workdir: Path, evaluation: Evaluation, predictions: Mapping[str, Predictions]
) -> None:
    """Writes ``predictions_<split>.csv`` for each split, and ``evaluation.json``."""
    private_folder(workdir)
    for split, found in predictions.items():
        write_table(table_path(workdir, split), found)
    write_json(workdir / EVALUATION_FILE, evaluation.to_json())


def _compare(
    config: FinetuneConfig,
    predictions: Mapping[str, Predictions],
    results: Mapping[str, DiagnosisResult | SegmentationResult],
    compare_with: CompareWith,
) -> tuple[RunComparison | None, Mapping[str, tuple[ReaderResult, ...]]]:
    """The comparisons with another run and with readers that are asked for."""
    if not (compare_with.run or compare_with.readers):
        return None, {}
    if compare_with.split not in predictions:
        raise ConfigError(
            f"the split {compare_with.split!r} has no image to compare on: name another split"
        )
    mine, result = predictions[compare_with.split], results[compare_with.split]
    comparison, readers = None, {}
    if compare_with.run:
        other = read_table(table_path(compare_with.run, compare_with.split))
        comparison = compare_runs(mine, other, config.evaluation, seed=config.seed)
    if compare_with.readers:
        if isinstance(mine, SegmentationPredictions) or isinstance(result, SegmentationResult):
            raise ConfigError("readers' calls are compared with a diagnosis, not with masks")
        readers = read_and_compare(compare_with.readers, mine, result)
    return comparison, readers


def _one_call(split: str, found: Predictions) -> str:
    """A sentence if the model calls one class for all images of a split that shows several."""
    if not isinstance(found, DiagnosisPredictions) or found.kind == "multi":
        return ""
    calls = np.flatnonzero(found.calls().any(0))
    if len(calls) != 1 or len(np.unique(found.labels)) < 2:
        return ""
    return f"{split}: the model tells nothing apart, and calls all {found.classes[calls[0]]}."


def _copies(data: LabelledData) -> str:
    """Sentences on the images that no figure counts because another split holds them too."""
    copies = data.issues.by_kind().get("duplicate_split", ())
    counts = Counter(reason.partition(":")[0] for _, _, reason in copies)
    return " ".join(
        f"{count} image{'s' * (count > 1)} {left_out}: another split holds the same pixels."
        for left_out, count in counts.items()
    )


def _bootstrap(settings: EvaluationConfig, seed: int) -> Bootstrap | None:
    """How intervals are made; None without intervals."""
    if not settings.replicates:
        return None
    return Bootstrap(settings.replicates, seed=seed, name="evaluation")
