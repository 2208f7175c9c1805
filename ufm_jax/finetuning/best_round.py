"""The choice of the round that is kept: the best on the validation split, never on the test."""

import logging
import math
from dataclasses import replace

import numpy as np

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.evaluation_json import evaluate_diagnosis, evaluate_segmentation
from ufm_jax.evaluation.predictions import DiagnosisPredictions, Predictions
from ufm_jax.evaluation.segmentation import pooled_dice
from ufm_jax.prediction.split import diagnosis_of

_log = logging.getLogger(__name__)


def check_validation(data: LabelledData, settings: EvaluationConfig) -> None:
    """Checks before training that a round can be chosen; warns if the last one will be taken.

    Raises:
        ConfigError: If the data lacks a validation split to choose by.
    """
    rows, task = data.rows("val"), data.task
    if settings.select == "last":
        return
    if not len(rows):
        raise ConfigError(
            f"config.evaluation.select={settings.select!r}: the data has no validation "
            "split to choose by; set config.data.split.val_fraction, or select='last'"
        )
    if task.kind == "segment":
        return
    # The labels alone decide whether it is defined, so that any predictions tell.
    alike = diagnosis_of(data, rows, np.full((len(rows), task.num_classes), 1 / task.num_classes))
    figure = figure_of(settings, task)
    found = evaluate_diagnosis(alike, replace(settings, replicates=0), {}).overall[figure]
    if math.isnan(found.value):
        _log.warning(
            "config.evaluation.select=%r: %s is undefined on the validation split (%s): the last "
            "round will be taken; split otherwise, or set select='last'",
            *(settings.select, figure, found.note),
        )


def figure_of(settings: EvaluationConfig, task: Task) -> str:
    """The figure that decides: as configured, or the usual one of the task."""
    if settings.select == "auto":
        return "pooled_dice" if task.kind == "segment" else "auroc"
    return settings.select


def score(predictions: Predictions, task: Task, settings: EvaluationConfig) -> float:
    """The deciding figure of predictions for the validation split."""
    figure, plain = figure_of(settings, task), replace(settings, replicates=0)
    if isinstance(predictions, DiagnosisPredictions):
        return evaluate_diagnosis(predictions, plain, {}).overall[figure].value
    if figure == "pooled_dice":
        return pooled_dice(predictions.scores)
    return evaluate_segmentation(predictions, plain).overall[figure].value
