"""From predictions for a split to its figures, and to ``evaluation.json``.

A configuration chooses the class looked for, the thresholds and the resamples of each figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.data.labels.task import Task
from ufm_jax.evaluation.against import RunComparison
from ufm_jax.evaluation.biometry import measurement_errors
from ufm_jax.evaluation.calls import calling_thresholds
from ufm_jax.evaluation.diagnosis import diagnose_binary, diagnose_multiclass, diagnose_multilabel
from ufm_jax.evaluation.intervals import Bootstrap
from ufm_jax.evaluation.predictions import DiagnosisPredictions, SegmentationPredictions
from ufm_jax.evaluation.readers import ReaderResult
from ufm_jax.evaluation.results import (
    DiagnosisResult,
    MeasurementResult,
    SegmentationResult,
    plain,
)
from ufm_jax.evaluation.segmentation import summarise
from ufm_jax.evaluation.thresholds import Threshold
from ufm_jax.files import write_json
from ufm_jax.runs.folder import EVALUATION_FILE


@dataclass(frozen=True)
class MeasurementErrors:
    """Errors of what was measured on predicted masks.

    Attributes:
        result: None where no image has both a measurement and a true value.
        without_reference: Images without a true value, which are in no figure.
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
        task: Its classes.
        splits: Split -> figures.
        thresholds: Class -> threshold, chosen on the validation split; empty where none was.
        measurement: Split -> errors of the measurement; empty where nothing is measured.
        comparison: With another run, or None.
        readers: Class -> readers against the model; empty where there are none.
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
            **{
                key: plain(getattr(self, key))
                for key in ("splits", "thresholds", "measurement", "comparison")
            },
            "readers": readers,
            "note": self.note,
        }


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
        seed: Of the resamples.

    Raises:
        ConfigError: If the positive class is none of the task, or another one has the threshold.
        ValueError: If the predictions are impossible.
    """
    p = predictions
    used = calling_thresholds(p.kind, p.classes, settings, thresholds)
    bootstrap = _bootstrap(settings, seed)
    if p.kind == "multi":
        return diagnose_multilabel(
            *(p.probabilities, p.targets, p.classes),
            groups=p.groups,
            thresholds=used,
            bootstrap=bootstrap,
        )
    if not used:
        return diagnose_multiclass(
            p.probabilities, p.labels, p.classes, groups=p.groups, bootstrap=bootstrap
        )
    ((positive, threshold),) = used.items()
    return diagnose_binary(
        *(p.probabilities, p.labels, p.classes),
        positive=positive,
        groups=p.groups,
        threshold=threshold,
        bootstrap=bootstrap,
    )


def evaluate_segmentation(
    predictions: SegmentationPredictions, settings: EvaluationConfig, *, seed: int = 0
) -> SegmentationResult:
    """All figures of masks; of what was measured on them see ``evaluate_measurement``.

    Args:
        predictions: For one split.
        settings: The number of resamples.
        seed: Of the resamples.
    """
    return summarise(
        predictions.scores,
        predictions.classes,
        groups=predictions.groups,
        bootstrap=_bootstrap(settings, seed),
    )


def evaluate_measurement(
    predictions: SegmentationPredictions, settings: EvaluationConfig, *, seed: int = 0
) -> MeasurementErrors | None:
    """Errors of what was measured; arguments as in ``evaluate_segmentation``.

    Returns:
        None where nothing was to be measured.
    """
    if predictions.measured is None or predictions.reference is None:
        return None
    known = np.isfinite(predictions.reference)
    without = int((~known).sum())
    measured = predictions.measured[known]
    if not np.isfinite(measured).any():
        note = f"of {len(measured)} images with a true value none could be measured"
        return MeasurementErrors(None, without, note)
    result = measurement_errors(
        measured,
        predictions.reference[known],
        unit=predictions.unit,
        groups=predictions.groups[known],
        bootstrap=_bootstrap(settings, seed),
    )
    return MeasurementErrors(result, without)


def write_evaluation(workdir: Path, evaluation: Evaluation) -> Path:
    """Writes ``evaluation.json``, whole or not at all, and returns its path."""
    path = workdir / EVALUATION_FILE
    write_json(path, evaluation.to_json())
    return path


def _bootstrap(settings: EvaluationConfig, seed: int) -> Bootstrap | None:
    """How intervals are made; None = none."""
    if not settings.replicates:
        return None
    return Bootstrap(settings.replicates, seed=seed, name="evaluation")
