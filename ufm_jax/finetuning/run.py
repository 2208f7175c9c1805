"""A fine-tuning run from its configuration to its report: train, choose, save, evaluate."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ufm_jax.config.finetuning import EvaluationConfig, FinetuneConfig
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.labels.settings import SPLITS, SplitSettings
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.calls import choose_thresholds, positive_class
from ufm_jax.evaluation.evaluation_json import CompareWith, evaluate_predictions, write_results
from ufm_jax.evaluation.predictions import Predictions
from ufm_jax.evaluation.thresholds import Threshold
from ufm_jax.fed.keys import fold
from ufm_jax.finetuning.probes.linear_knn import knn_probe, linear_probe
from ufm_jax.finetuning.report import write_report
from ufm_jax.finetuning.start_weights import start_params
from ufm_jax.finetuning.training import load_task, train, training_rows
from ufm_jax.models.classifier import Classifier
from ufm_jax.objectives.task import make_objective
from ufm_jax.prediction.measurement import measured_numbers, reference_of
from ufm_jax.prediction.predictor import Predictor
from ufm_jax.prediction.split import diagnosis_of, predict_split
from ufm_jax.runs.folder import check_free, claim
from ufm_jax.runs.seen_images import (
    read_seen_images,
    rows_to_evaluate,
    seen_images,
    write_seen_images,
)
from ufm_jax.runs.trained_model import TrainedModel, load_config, load_model, save_model
from ufm_jax.train.federation import build_placement
from ufm_jax.train.participation import check_trace

_log = logging.getLogger(__name__)

ALL = "all"
"""In the place of a split: every image."""

Predict = Callable[[np.ndarray], Predictions]
"""``rows -> predictions`` of a trained model."""


class Ended(NamedTuple):
    """How a run ended: the report, or the signal that ended it and the rounds done by then."""

    report: Path | None
    stopped_by: int = 0
    rounds_done: int = 0


def finetune(config: FinetuneConfig, workdir: Path) -> Ended:
    """Trains as ``config.method`` says, saves the model, and evaluates it.

    Called again on the same folder it goes on where it stopped.

    Args:
        config: A checked configuration.
        workdir: The folder that gets all that the run leaves behind.
    """
    check_trace(config.federation.participation.trace)
    data = load_task(config)
    check_evaluation(config.evaluation, data)
    for split, counts in data.summary().items():
        _log.info("%s: %s", split, counts)
    seen = seen_images(data, np.union1d(training_rows(config, data), data.rows("val")))
    splits = {split: held for split in ("val", "test") if len(held := data.rows(split))}
    rows, told = rows_to_evaluate(seen, data, splits, config.data.duplicates)
    if config.method.endswith("_probe"):
        model, predict, note = probe(config, data, workdir)
    else:
        trained = train(config, data, workdir)
        if trained.model is None:
            return Ended(None, trained.stopped_by, trained.rounds_done)
        model, note = trained.model, trained.promise and f"Privacy: {trained.promise}."
        predict = predicts_with(config, data, model)

    predictions = {split: predict(tested) for split, tested in rows.items()}
    thresholds = choose_thresholds(predictions.get("val"), config.evaluation)
    if model is not None:
        values = {name: threshold.value for name, threshold in thresholds.items()}
        write_seen_images(workdir, seen)
        save_model(workdir, replace(model, thresholds=values))
    note = " ".join(filter(None, (note, told)))
    evaluation, called = evaluate_predictions(config, data, predictions, thresholds, note)
    write_results(workdir, evaluation, called)
    return Ended(write_report(config, workdir, data, evaluation, called, model))


class Request(NamedTuple):
    """What is to be evaluated, and where the figures go.

    Attributes:
        run: Folder of a finished fine-tuning run.
        out: Gets tables, evaluation.json and report; not the run's own folder.
        splits: Splits to evaluate; ('all',) takes every image that the run has not seen.
        compare_with: What the model is compared with.
        occlusion: How many examples of each kind of a diagnosis get a map.
        client: Whose own parameters predict. '' is for models without such parameters, and for
            data of the run itself, whose images are predicted with those of their clients.
    """

    run: Path
    out: Path
    splits: tuple[str, ...]
    compare_with: CompareWith
    occlusion: int = 0
    client: str = ""


def evaluate(config: FinetuneConfig, request: Request) -> Path:
    """Evaluates a trained model on the data that ``config`` names.

    Classes and thresholds are the run's. Images that the model was trained on or chosen by are left
    out of 'test' and 'all', and the result says how many; ``config.data.duplicates='error'``
    refuses them. 'train' and 'val' may be named, and the result says that they are not a test.

    Args:
        config: The run's configuration, its data changed or not.
        request: Folders, splits, and what to compare with.

    Raises:
        ConfigError: If the run has no trained head, or the request does not fit.
        DataError: If the data cannot be used.
    """
    check_free(request.out)
    _check_reading(config, request.run)
    model, seen = load_model(request.run), read_seen_images(request.run)
    if unknown := set(request.splits) - {*SPLITS, ALL}:
        raise ConfigError(f"--splits: {min(unknown)!r}: name some of {', '.join(SPLITS)}, or {ALL}")
    if ALL in request.splits:
        if len(request.splits) > 1:
            raise ConfigError(f"--splits={','.join(request.splits)}: name {ALL!r} alone")
        unsplit = SplitSettings(policy="fractions", required=("test",))
        config = replace(config, data=replace(config.data, split=unsplit))
    data = load_task(_with_classes(config, model.task))
    if data.task != model.task:
        raise ConfigError(
            f"the data has the classes {', '.join(data.task.classes)}, and the model of "
            f"{request.run} was trained on {', '.join(model.task.classes)}: map them with "
            "config.data.classes=('name=value|value', ...)"
        )
    own = data.fingerprint == seen.data
    if request.client or not own:
        model = model.for_client(request.client)
    predict = predicts_with(config, data, model)
    rows = {
        split: np.arange(data.num_rows) if split == ALL else data.rows(split)
        for split in request.splits
    }
    for split in (split for split, found in rows.items() if not len(found)):
        raise ConfigError(f"--splits: the data has no image of the split {split!r}")
    rows, told = rows_to_evaluate(seen, data, rows, config.data.duplicates)
    predictions = {split: predict(tested) for split, tested in rows.items()}
    thresholds = {
        name: Threshold(value, f"chosen on the validation split of {request.run}")
        for name, value in model.thresholds.items()
    }
    evaluation, called = evaluate_predictions(
        config, data, predictions, thresholds, told, request.compare_with
    )
    write_results(request.out, evaluation, called)
    return write_report(
        config, request.out, data, evaluation, called, model, occlusion=request.occlusion
    )


def _check_reading(config: FinetuneConfig, run: Path) -> None:
    """Refuses to read images otherwise than the run did: seen ones would not be known again."""
    stored = load_config(run).data
    for key in ("working_size", "channels"):
        now = getattr(config.data, key)
        if now != stored[key]:
            raise ConfigError(
                f"config.data.{key}={now!r}: the run read its images with {stored[key]!r}, "
                "and knows its training images only if they are read alike; leave it as it is"
            )


def _with_classes(config: FinetuneConfig, task: Task) -> FinetuneConfig:
    """The configuration, with the model's classes in their order if it leaves them open."""
    if task.kind == "segment" or config.data.classes:
        return config
    if task.kind == "multi" and not config.data.separator:
        return config
    return replace(config, data=replace(config.data, classes=task.classes))


def check_evaluation(settings: EvaluationConfig, data: LabelledData) -> None:
    """Refuses before training what the evaluation would refuse after it.

    Raises:
        ConfigError: If the data lacks a class or a column that ``settings`` name.
    """
    classes = data.task.classes
    if data.task.kind == "single" and len(classes) == 2:
        positive_class(settings, classes)
    elif settings.positive:
        raise ConfigError(
            f"config.evaluation.positive={settings.positive!r}: it tells two classes apart, and "
            f"the task is {data.task.kind!r} with {', '.join(classes)}; leave it empty"
        )
    if settings.measurement:
        measured_numbers(settings, classes)
        reference_of(data, np.arange(data.num_rows), settings)


def predicts_with(config: FinetuneConfig, data: LabelledData, model: TrainedModel) -> Predict:
    """The function that predicts rows of ``data``, each with the parameters for its client."""
    predictor = Predictor(make_objective(config, model.task).predict, config.evaluation.batch_size)
    if not model.personal:
        model = replace(model, params=jax.device_put(model.params))
    return lambda rows: predict_split(predictor, model.params_of, data, rows, config.evaluation)


def probe(
    config: FinetuneConfig, data: LabelledData, workdir: Path
) -> tuple[TrainedModel | None, Predict, str]:
    """Fits a probe to the training images.

    Returns:
        The model (None for nearest neighbours), how it predicts, and what was chosen, in words.
    """
    rows = training_rows(config, data)
    objective = make_objective(config, data.task)
    network = objective.network
    assert isinstance(network, Classifier)
    initial = objective.init(fold(jax.random.key(config.seed), "init"))
    beginning = start_params(config, initial)
    claim(workdir, config, data.take(rows).federated(), build_placement(config.placement))
    if config.method == "knn_probe":
        found = knn_probe(network, beginning.params, data, rows, config)
        probabilities = found.probabilities
        assert probabilities is not None
        return (
            None,
            lambda asked: diagnosis_of(data, asked, probabilities(asked)),
            _described(found.chosen),
        )
    found = linear_probe(network, beginning.params, data, rows, config)
    model = TrainedModel(found.params, data.task, {}, (), 0, {})
    return model, predicts_with(config, data, model), _described(found.chosen)


def _described(chosen: Mapping[str, float | str | None]) -> str:
    """The choice of a probe, in words."""
    name, value = next(iter(chosen.items()))
    by = f" by {chosen['by']} " if chosen["by"] else ", "
    return f"{name} = {value:g}{by}{chosen['note']}"
