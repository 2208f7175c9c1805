"""Puts a run's figures, pictures and facts together for its report."""

import math
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import jax
import numpy as np

from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.config.schema import to_config_dict
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.evaluation.evaluation_json import Evaluation
from ufm_jax.evaluation.predictions import Predictions, SegmentationPredictions
from ufm_jax.fed.algorithm import Params
from ufm_jax.finetuning.best_round import figure_of
from ufm_jax.finetuning.report_examples import HeatOf, MaskOf, example_pictures
from ufm_jax.objectives.task import make_objective
from ufm_jax.prediction.native_masks import native_mask
from ufm_jax.prediction.occlusion import occlusion_map
from ufm_jax.prediction.predictor import Predictor, predict_rows
from ufm_jax.prediction.split import clients_of
from ufm_jax.report.evaluation_page import main_split, render
from ufm_jax.report.evaluation_types import EvaluationReport, Training
from ufm_jax.report.page import write_page
from ufm_jax.report.run_info import versions
from ufm_jax.runs.history import read_history
from ufm_jax.runs.trained_model import TrainedModel


def write_report(
    config: FinetuneConfig,
    workdir: Path,
    data: LabelledData,
    evaluation: Evaluation,
    predictions: Mapping[str, Predictions],
    model: TrainedModel | None,
    occlusion: int = 0,
) -> Path:
    """Writes ``report.html``.

    Args:
        config: The run's configuration.
        workdir: The folder that gets the page; its history, if any, is shown.
        data: The images.
        evaluation: The figures.
        predictions: Split -> predictions, with calls.
        model: Draws masks and maps of examples; None if the run leaves no model.
        occlusion: How many examples of each kind of a diagnosis get a map.
    """
    mask_of, heat_of = _drawing(config, data, model)
    report = EvaluationReport(
        evaluation=evaluation,
        created=date.today().isoformat(),
        facts=_facts(config, data, evaluation, model),
        training=_training(config, workdir, data, model),
        pictures=example_pictures(
            data,
            predictions[main_split(predictions)],
            config.data,
            mask_of=mask_of,
            heat_of=heat_of,
            heats=occlusion,
        ),
        issues=data.issues.to_json(),
        config=to_config_dict(config).to_dict(),
        versions=versions() | {"device": jax.devices()[0].device_kind},
        measured=_measured(predictions),
    )
    return write_page(workdir, render(report))


def _facts(
    config: FinetuneConfig,
    data: LabelledData,
    evaluation: Evaluation,
    model: TrainedModel | None,
) -> list[tuple[str, str]]:
    """Names and values of what a reader must know of the model and the images."""
    images = ", ".join(f"{name} {len(data.rows(name)):,}" for name in ("train", "val", "test"))
    if "all" in evaluation.splits:  # The model was trained elsewhere.
        images = f"test {evaluation.splits['all'].num_rows:,}"
    facts = [
        ("encoder", f"ViT-{config.model.size.capitalize()}/{config.model.patch_size}"),
        ("image", f"{config.model.image_size} pixels"),
        ("started from", config.start.weights or "random weights"),
        ("method", config.method.replace("_", " ")),
        ("labels used", f"{100 * config.label_fraction:g} %"),
        ("training", config.federation.training),
        ("images", images),
        ("clients", f"{data.num_clients:,}"),
    ]
    if model is not None and model.personal:
        facts.append(("each client's own", f"{len(model.personal)} arrays"))
    return facts


def _training(
    config: FinetuneConfig, workdir: Path, data: LabelledData, model: TrainedModel | None
) -> Training | None:
    history = read_history(workdir)
    if model is None or not history:
        return None
    looks = [record for record in history if math.isfinite(record.validation_score)]
    return Training(
        losses=[record.loss for record in history],
        looks=[record.round + 1 for record in looks],
        scores=[record.validation_score for record in looks],
        score_name=figure_of(config.evaluation, data.task),
        chosen=model.round,
    )


def _drawing(
    config: FinetuneConfig, data: LabelledData, model: TrainedModel | None
) -> tuple[MaskOf | None, HeatOf | None]:
    """Functions that draw a row's mask and its map with its client's parameters."""
    if model is None:
        return None, None
    predict = make_objective(config, model.task).predict
    predictor = Predictor(predict, min(16, config.evaluation.batch_size))

    def params_for(row: int) -> Params:
        return model.params_of(*clients_of(data, np.array([row])))

    def mask_of(row: int) -> np.ndarray:
        ((_, found),) = predict_rows(predictor, params_for(row), data, np.array([row]))
        height, width = data.native_size[row].tolist()
        return native_mask(found[0], (height, width), config.evaluation.least_component)

    def heat_of(row: int, number: int) -> np.ndarray:
        stored = data.store.read(np.array([row]))
        picture, extent = stored["image"][0], stored["extent"][0]
        return occlusion_map(predictor, params_for(row), picture, extent, number)

    return mask_of, heat_of


def _measured(predictions: Mapping[str, Predictions]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        split: (found.measured, found.reference)
        for split, found in predictions.items()
        if isinstance(found, SegmentationPredictions)
        and found.measured is not None
        and found.reference is not None
    }
