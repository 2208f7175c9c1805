"""A trained model applied to a folder of images."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.calls import calling_thresholds
from ufm_jax.evaluation.thresholds import Threshold
from ufm_jax.fed.algorithm import Params
from ufm_jax.files import private_folder
from ufm_jax.objectives.task import make_objective
from ufm_jax.prediction.folder.files import (
    FolderImage,
    ListedFile,
    check_first,
    list_files,
    read_batches,
    stack,
)
from ufm_jax.prediction.folder.outputs import (
    TABLE,
    Cells,
    DiagnosisOutput,
    Output,
    SegmentationOutput,
    mask_names,
    open_table,
)
from ufm_jax.prediction.measurement import measured_numbers
from ufm_jax.prediction.predictor import Predictor
from ufm_jax.runs.lock import ERROR_FILE, LOCK_FILE
from ufm_jax.runs.trained_model import TrainedModel
from ufm_jax.threads import map_in_order

_log = logging.getLogger(__name__)


class Request(NamedTuple):
    """What is to be predicted, and where the predictions go.

    Attributes:
        images: The folder that is read, with its sub-folders.
        out: The folder that is written; it must be empty or absent.
        client: Whose personal parameters are used; '' for a model without personal parameters.
        spacing: mm per pixel of all images; 0 = unknown.
        overlays: Whether overlays of segmentations are drawn.
    """

    images: Path
    out: Path
    client: str = ""
    spacing: float = 0.0
    overlays: bool = True


class Summary(NamedTuple):
    """What was predicted.

    Attributes:
        predicted: The number of images with a prediction.
        failed: The number of files without one.
        note: How the table is to be read.
    """

    predicted: int
    failed: int
    note: str


def predict_folder(config: FinetuneConfig, model: TrainedModel, request: Request) -> Summary:
    """Predicts every image of a folder; see ``outputs`` for what is written.

    Images are decoded, and outputs written, in threads while the device works; memory does not grow
    with the number of images.

    Args:
        config: The run's configuration.
        model: The run's model.
        request: Folders and options.

    Raises:
        ConfigError, DataError: If the request does not fit the model or the folders; then nothing
            is written. Files that cannot be read are listed in the table instead.
    """
    params = model.for_client(request.client).params
    _check_out(request)
    files = list_files(request.images, config.data)
    candidates = [listed.name for listed in files if not listed.error]
    check_first(request.images, candidates, config.data)
    output = _output(config, model, request, candidates)
    # A batch larger than the number of images would only be filled up.
    batch_size = min(config.evaluation.batch_size, max(1, len(candidates)))
    predictor = Predictor(make_objective(config, model.task).predict, batch_size)
    workers = config.data.num_workers or os.cpu_count() or 1

    private_folder(request.out)
    if isinstance(output, SegmentationOutput):
        output.write_key()
    batches = read_batches(request.images, files, config.data, batch_size, workers)
    predictions = _predictions(predictor, params, batches)
    rows = map_in_order(lambda item: _row(output, item), predictions, workers)
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    failed = 0
    with open_table(request.out / TABLE, output.columns) as add, bar:
        for row in bar.track(rows, total=len(files), description="predicting"):
            add(row)
            if reason := row.get("error"):
                failed += 1
                _log.warning("%s: %s", row["image"], reason)
    return Summary(len(files) - failed, failed, output.note)


def _check_out(request: Request) -> None:
    """Refuses an output folder that holds files, or that lies inside the folder of images."""
    out = request.out
    ours = {LOCK_FILE, ERROR_FILE}
    if out.exists() and (not out.is_dir() or {file.name for file in out.iterdir()} - ours):
        raise ConfigError(f"--out={out} is not an empty folder; name another one")
    if out.resolve().is_relative_to(request.images.resolve()):
        raise ConfigError(f"--out={out} lies within --images={request.images}; name another one")


def _output(
    config: FinetuneConfig, model: TrainedModel, request: Request, names: Sequence[str]
) -> Output:
    settings, task = config.evaluation, model.task
    if not 0 <= request.spacing < math.inf:
        raise ConfigError(f"--spacing={request.spacing}: millimetres per pixel are above 0")
    if request.spacing and not (task.kind == "segment" and settings.measurement):
        raise ConfigError(
            f"--spacing={request.spacing}: nothing is measured; set config.evaluation.measurement "
            "of a segmentation, or leave it out"
        )
    if task.kind != "segment":
        chosen = {name: Threshold(value) for name, value in model.thresholds.items()}
        return DiagnosisOutput(task, calling_thresholds(task.kind, task.classes, settings, chosen))
    measured_numbers(settings, task.classes)  # Refuses classes that the task does not have.
    return SegmentationOutput(
        task,
        settings,
        config.data,
        request.images,
        request.out,
        mask_names(names),
        request.spacing,
        request.overlays,
    )


def _predictions(
    predictor: Predictor, params: Params, batches: Iterator[list[FolderImage | ListedFile]]
) -> Iterator[tuple[FolderImage, np.ndarray] | ListedFile]:
    """Each file in order, an image with the network's output for it."""
    for batch in batches:
        images = [item for item in batch if isinstance(item, FolderImage)]
        outputs = iter(predictor(params, stack(images)) if images else ())
        for item in batch:
            yield item if isinstance(item, ListedFile) else (item, next(outputs))


def _row(output: Output, item: tuple[FolderImage, np.ndarray] | ListedFile) -> Cells:
    if isinstance(item, ListedFile):
        return {"image": item.name, "error": item.error}
    image, probabilities = item
    if image.frames > 1:
        _log.warning("%s: frame 1 of %d is used", image.name, image.frames)
    try:
        return {"image": image.name, **output(image, probabilities)}
    except CorruptImage as error:
        return {"image": image.name, "error": str(error)}
