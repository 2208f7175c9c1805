"""What a run leaves behind of its evaluation: tables, evaluation.json, report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.against import RunComparison, compare_runs, read_and_compare
from ufm_jax.evaluation.calls import call
from ufm_jax.evaluation.evaluation_json import (
    Evaluation,
    evaluate_diagnosis,
    evaluate_measurement,
    evaluate_segmentation,
    write_evaluation,
)
from ufm_jax.evaluation.predictions import (
    DiagnosisPredictions,
    Predictions,
    SegmentationPredictions,
)
from ufm_jax.evaluation.predictions_csv import read_table, table_path, write_table
from ufm_jax.evaluation.readers import ReaderResult
from ufm_jax.evaluation.results import DiagnosisResult, SegmentationResult
from ufm_jax.evaluation.thresholds import Threshold
from ufm_jax.files import private_folder


@dataclass(frozen=True)
class Beside:
    """What a model is compared with; None for nothing.

    Attributes:
        run: Folder of another run's evaluation of the same images.
        readers: CSV of readers' calls; see ``evaluation.readers``.
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
    beside: Beside | None = None,
) -> tuple[Evaluation, dict[str, Predictions]]:
    """All figures of predictions.

    Args:
        config: The positive class, resamples, what is measured, and the seed.
        data: The task.
        predictions: Split -> predictions.
        thresholds: Chosen on the validation split.
        note: What a reader must know.
        beside: What to compare with.

    Returns:
        The evaluation, and the predictions with their calls.

    Raises:
        ConfigError: If what is compared with does not fit.
    """
    settings, seed = config.evaluation, config.seed
    called: dict[str, Predictions] = {}
    splits: dict[str, DiagnosisResult | SegmentationResult] = {}
    measurement = {}
    for split, found in predictions.items():
        if isinstance(found, DiagnosisPredictions):
            called[split] = call(found, settings, thresholds)
            splits[split] = evaluate_diagnosis(found, settings, thresholds, seed=seed)
        else:
            called[split] = found
            splits[split] = evaluate_segmentation(found, settings, seed=seed)
            errors = evaluate_measurement(found, settings, seed=seed)
            if errors is not None:
                measurement[split] = errors
    comparison: RunComparison | None = None
    readers: Mapping[str, tuple[ReaderResult, ...]] = {}
    if beside and (beside.run or beside.readers):
        comparison, readers = _beside(config, called, splits, beside)
    evaluation = Evaluation(
        config.name,
        data.task,
        splits,
        thresholds,
        measurement,
        comparison,
        readers,
        " ".join(filter(None, (note, _copies(data), *map(_one_call, called, called.values())))),
    )
    return evaluation, called


def _one_call(split: str, found: Predictions) -> str:
    """Says where a model calls one class whatever it is shown, though there are others."""
    if not isinstance(found, DiagnosisPredictions) or found.kind == "multi":
        return ""
    assert found.called is not None
    calls = np.flatnonzero(found.called.any(0))
    if len(calls) != 1 or len(np.unique(found.labels)) < 2:
        return ""
    return f"{split}: the model tells nothing apart, and calls all {found.classes[calls[0]]}."


def _copies(data: LabelledData) -> str:
    """How many images were left out of the figures because another split holds them too."""
    copies = data.issues.by_kind().get("duplicate_split", ())
    counts = Counter(reason.partition(":")[0] for _, _, reason in copies)
    return " ".join(
        f"{count} {'image' if count == 1 else 'images'} {left_out}: another split holds the same "
        "pixels."
        for left_out, count in counts.items()
    )


def write_tables(
    workdir: Path, evaluation: Evaluation, predictions: Mapping[str, Predictions]
) -> None:
    """Writes ``predictions_<split>.csv`` for each split, and ``evaluation.json``."""
    private_folder(workdir)
    for split, found in predictions.items():
        write_table(table_path(workdir, split), found)
    write_evaluation(workdir, evaluation)


def _beside(
    config: FinetuneConfig,
    predictions: Mapping[str, Predictions],
    results: Mapping[str, DiagnosisResult | SegmentationResult],
    beside: Beside,
) -> tuple[RunComparison | None, Mapping[str, tuple[ReaderResult, ...]]]:
    """The comparisons that are asked for."""
    if beside.split not in predictions:
        raise ConfigError(f"there is no image in the split {beside.split!r} to compare on")
    mine, result = predictions[beside.split], results[beside.split]
    comparison, readers = None, {}
    if beside.run:
        other = read_table(table_path(beside.run, beside.split))
        comparison = compare_runs(mine, other, config.evaluation, seed=config.seed)
    if beside.readers:
        if isinstance(mine, SegmentationPredictions) or isinstance(result, SegmentationResult):
            raise ConfigError("readers' calls are compared with a diagnosis, not with masks")
        readers = read_and_compare(beside.readers, mine, result)
    return comparison, readers
