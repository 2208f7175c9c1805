"""The choice of the round that is kept: the best on the validation split, never on the test."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.evaluation_json import evaluate_diagnosis, evaluate_segmentation
from ufm_jax.evaluation.predictions import DiagnosisPredictions, Predictions
from ufm_jax.evaluation.segmentation import pooled_dice
from ufm_jax.fed.engine import FederationState
from ufm_jax.files import write_json
from ufm_jax.prediction.split import diagnosis_of
from ufm_jax.runs.stored import as_json, read_as

VALIDATION_FILE = "validation.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """A look at the validation split: the rounds done by then, and the score (higher is better)."""

    rounds: int
    score: float


class Selection:
    """Scores the model after each round, and remembers the best."""

    def __init__(
        self, workdir: Path, every: int, score: Callable[[FederationState], float]
    ) -> None:
        """Begins without a look.

        Args:
            workdir: The run's folder, where a file keeps the looks.
            every: Rounds between looks.
            score: ``state -> score``; nan = undefined, or nothing is trained yet.
        """
        self._workdir, self._every, self._score = workdir, every, score
        self._rounds = 0
        self.looks: list[Look] = []

    def begin(self, done: int, rounds: int) -> None:
        """Takes up the looks of an interrupted run; see ``rounds.Judge``."""
        self._rounds = rounds
        # Looks after the checkpoint that the run goes on from are taken again.
        self.looks = [look for look in read_looks(self._workdir) if look.rounds <= done]

    @property
    def best(self) -> Look | None:
        """The first of the highest looks; None if no score was defined."""
        defined = [look for look in self.looks if math.isfinite(look.score)]
        return max(defined, key=lambda look: look.score, default=None)

    def __call__(self, done: int, state: FederationState) -> float | None:
        """The score if the model is the best so far, else None; see ``rounds.Judge``."""
        if done % self._every and done != self._rounds:
            return None
        before = self.best
        look = Look(done, self._score(state))
        self.looks.append(look)
        write_json(self._workdir / VALIDATION_FILE, as_json(self.looks))
        _log.info("after round %d: validation score %.4f", done, look.score)
        better = math.isfinite(look.score) and (before is None or look.score > before.score)
        return look.score if better else None


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


def read_looks(workdir: Path) -> list[Look]:
    """All looks of the run in ``workdir``, in order.

    Raises:
        RunError: If its file is damaged.
    """
    path = workdir / VALIDATION_FILE
    remedy = "restore it, or delete it: the best round is then chosen among those to come"
    return read_as(list[Look], path, remedy) if path.exists() else []


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
