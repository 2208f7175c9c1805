"""Predictions of a model for the rows of a labelled data set, as the evaluation takes them."""

from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.evaluation.biometry import UNITS
from ufm_jax.evaluation.predictions import (
    DiagnosisPredictions,
    Predictions,
    SegmentationPredictions,
)
from ufm_jax.evaluation.segmentation import MaskScores, score_masks
from ufm_jax.fed.algorithm import Params
from ufm_jax.prediction.measurement import measure, reference_of
from ufm_jax.prediction.native_masks import native_mask
from ufm_jax.prediction.predictor import Predictor, predict_rows

ParamsOf = Callable[[str], Params]
"""``client -> the parameters`` that predict its images."""


def predict_split(
    predictor: Predictor,
    params_of: ParamsOf,
    data: LabelledData,
    rows: np.ndarray,
    settings: EvaluationConfig,
) -> Predictions:
    """Predicts rows, and scores each mask against its reference at the file's size.

    Args:
        predictor: Runs the network.
        params_of: Parameters for each client's images.
        data: The images.
        rows: The rows to predict, int64 [R].
        settings: How masks are made and measured.
    """
    outputs = _in_order(predictor, params_of, data, rows)
    if data.task.kind != "segment":
        return diagnosis_of(data, rows, np.stack([output for _, output in outputs]))
    scores, measured = [], []
    for row, output in outputs:
        mask = native_mask(output, tuple(data.native_size[row]), settings.least_component)
        spacing = float(data.spacing[row])
        scores.append(
            score_masks(mask, data.mask_at_native(row), data.task.num_classes, spacing or None)
        )
        if settings.measurement:
            measured.append(measure(mask, spacing, settings, data.task.classes))
    return SegmentationPredictions(
        names=tuple(data.names[row] for row in rows),
        clients=clients_of(data, rows),
        groups=data.groups[rows],
        scores=MaskScores.stack(scores),
        classes=data.task.classes,
        measured=np.array(measured) if settings.measurement else None,
        reference=reference_of(data, rows, settings) if settings.measurement else None,
        unit=UNITS.get(settings.measurement, ""),
    )


def diagnosis_of(
    data: LabelledData, rows: np.ndarray, probabilities: np.ndarray
) -> DiagnosisPredictions:
    """Predictions from probabilities [R, C] for rows [R]."""
    return DiagnosisPredictions(
        names=tuple(data.names[row] for row in rows),
        clients=clients_of(data, rows),
        groups=data.groups[rows],
        probabilities=probabilities,
        labels=data.labels[rows],
        targets=data.targets[rows],
        classes=data.task.classes,
    )


def _in_order(
    predictor: Predictor, params_of: ParamsOf, data: LabelledData, rows: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each row and its output. Rows of clients with the same parameters share batches."""
    holder = dict(zip(rows.tolist(), clients_of(data, rows), strict=True))
    models = {client: params_of(client) for client in dict.fromkeys(holder.values())}
    # Rows are grouped by client: those with the same parameters are neighbours.
    for _, same in groupby(rows.tolist(), key=lambda row: id(models[holder[row]])):
        part = np.array(list(same))
        for batch, outputs in predict_rows(predictor, models[holder[part[0]]], data, part):
            yield from zip(batch.tolist(), outputs, strict=True)


def clients_of(data: LabelledData, rows: np.ndarray) -> tuple[str, ...]:
    """The client that holds each row."""
    owner = np.searchsorted(data.offsets, rows, side="right") - 1
    return tuple(data.clients[k] for k in owner)
