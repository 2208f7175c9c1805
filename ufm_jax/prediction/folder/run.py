"""A trained model applied to a folder of images."""

import logging
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ufm_jax.bars import progress_bar
from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.data.image_file import CorruptImage, read_image_file
from ufm_jax.data.labels.task import Task
from ufm_jax.data.scans.clip import write_frames
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.calls import calling_thresholds
from ufm_jax.evaluation.thresholds import Threshold
from ufm_jax.fed.algorithm import Params
from ufm_jax.files import private_file, private_folder
from ufm_jax.objectives.task import make_objective
from ufm_jax.prediction.folder.clips import (
    CLIPS,
    frame_rate,
    summary_of,
    write_summaries,
)
from ufm_jax.prediction.folder.files import (
    FolderImage,
    ListedFile,
    ScanFrame,
    check_first,
    list_files,
    read_batches,
    read_pixels,
    stack,
    with_frames,
)
from ufm_jax.prediction.folder.outputs import (
    MASKS,
    OVERLAYS,
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
from ufm_jax.prediction.program import Program
from ufm_jax.runs.lock import ERROR_FILE, LOCK_FILE
from ufm_jax.runs.trained_model import TrainedModel
from ufm_jax.threads import map_in_order

_log = logging.getLogger(__name__)

_Predict = Callable[[Sequence[FolderImage]], Iterable[np.ndarray]]
"""Images -> the network's output for each."""


class Request(NamedTuple):
    """What is to be predicted, and where the predictions go.

    Attributes:
        images: The folder that is read, with its sub-folders.
        out: The folder that is written; it must be empty or absent.
        client: Whose personal parameters are used; '' for a model without personal parameters.
        spacing: mm per pixel of images whose files do not say it; 0 = unknown.
        overlays: Whether overlays of segmentations are drawn.
        clips: Whether the overlays of a scan of several frames are written as a clip too.
        dicom: Whether masks of DICOM files are written as DICOM segmentations too.
    """

    images: Path
    out: Path
    client: str = ""
    spacing: float = 0.0
    overlays: bool = True
    clips: bool = False
    dicom: bool = False


class _Row(NamedTuple):
    """A row of the table, and what it is about."""

    listed: ListedFile
    cells: Cells

    @property
    def error(self) -> str:
        """Why there is no prediction; '' if there is one."""
        return self.cells.get("error", "")


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


def predict_folder(
    config: FinetuneConfig, model: TrainedModel, request: Request, program: Program | None = None
) -> Summary:
    """Predicts every image of a folder; see ``outputs`` for what is written.

    Images are decoded, and outputs written, in threads while the device works; memory does not grow
    with the number of images.

    Args:
        config: The run's configuration.
        model: The run's model.
        request: Folders and options.
        program: Predicts in the place of the model's network, one picture after the other.

    Raises:
        ConfigError, DataError: If the request does not fit the model or the folders; then nothing
            is written. Files that cannot be read are listed in the table instead.
    """
    params = model.for_client(request.client).params
    _check_out(request)
    _check_options(request, model.task)
    files = _files(request, config.data)
    readable = [listed for listed in files if not listed.error]
    check_first(request.images, readable, config.data)
    output = _output(config, model, request, readable)
    # A batch larger than the number of images would only be filled up.
    batch_size = min(config.evaluation.batch_size, max(1, len(readable)))
    predict = _network(config, model.task, params, batch_size)
    if program:
        predict = _one_by_one(program, model.task, request.images, config.data)
    workers = config.data.num_workers or os.cpu_count() or 1

    private_folder(request.out)
    if isinstance(output, SegmentationOutput):
        output.write_key()
    batches = read_batches(request.images, files, config.data, batch_size, workers)
    predictions = _predictions(predict, batches)
    rows = map_in_order(lambda item: _row(output, item), predictions, workers)
    ended, failed, clips = 0, 0, []
    with open_table(request.out / TABLE, output.columns) as add, progress_bar("predicting") as show:
        for file, of_file in groupby(rows, key=lambda row: row.listed.file):
            done = list(of_file)
            show(ended := ended + len(done), len(files))
            for row in done:
                add({"image": row.listed.name, **row.cells})
                if row.error:
                    _log.warning("%s: %s", row.listed.name, row.error)
            predicted = [row.cells for row in done if not row.error]
            failed += len(done) - len(predicted)
            if (part := done[0].listed.part) and part.scan.frames > 1:
                clips.append(summary_of(output, file, part.scan, predicted))
                if request.clips and predicted:
                    _write_overlays(request.out, part, predicted)
    if clips:
        write_summaries(output, clips, request.out)
    return Summary(len(files) - failed, failed, output.note)


def _files(request: Request, settings: DataSettings) -> tuple[ListedFile, ...]:
    """The files of the folder, and the frames of its scans."""
    files = list_files(request.images, settings)
    with progress_bar("reading scans") as show:
        return with_frames(request.images, files, settings, show)


def _write_overlays(out: Path, part: ScanFrame, frames: Sequence[Cells]) -> None:
    """Plays the overlays of a scan's predicted frames in the time that the scan takes."""
    files = [out / cells["mask"].replace(MASKS, OVERLAYS, 1) for cells in frames]
    pictures = (read_image_file(file.read_bytes()).samples for file in files)
    rate = frame_rate(part.scan.frames, len(frames), part.scan.frame_ms)
    path = out / CLIPS / f"{part.file}.mp4"
    private_folder(path.parent)
    write_frames(private_file(path), pictures, rate)


def _check_out(request: Request) -> None:
    """Refuses an output folder that holds files, or that lies inside the folder of images."""
    out = request.out
    ours = {LOCK_FILE, ERROR_FILE}
    if out.exists() and (not out.is_dir() or {file.name for file in out.iterdir()} - ours):
        raise ConfigError(f"--out={out} is not an empty folder; name another one")
    if out.resolve().is_relative_to(request.images.resolve()):
        raise ConfigError(f"--out={out} lies within --images={request.images}; name another one")


def _check_options(request: Request, task: Task) -> None:
    """Refuses options that would mean nothing for the model."""
    if not 0 <= request.spacing < math.inf:
        raise ConfigError(f"--spacing={request.spacing}: millimetres per pixel are above 0")
    for option in ("spacing", "clips", "dicom"):
        if getattr(request, option) and task.kind != "segment":
            raise ConfigError(f"--{option}: nothing is measured or drawn; it is for segmentations")
    if request.clips and not request.overlays:
        raise ConfigError("--clips: plays the overlays, so leave out --nooverlays")


def _output(
    config: FinetuneConfig, model: TrainedModel, request: Request, files: Sequence[ListedFile]
) -> Output:
    settings, task = config.evaluation, model.task
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
        mask_names([listed.name for listed in files]),
        request.spacing,
        in_mm=any(listed.part and listed.part.scan.mm for listed in files) or request.spacing > 0,
        overlays=request.overlays,
        dicom=secrets.token_hex() if request.dicom else "",
    )


def _network(config: FinetuneConfig, task: Task, params: Params, batch_size: int) -> _Predict:
    predictor = Predictor(make_objective(config, task).predict, batch_size)
    return lambda images: predictor(params, stack(images))


def _one_by_one(program: Program, task: Task, root: Path, settings: DataSettings) -> _Predict:
    """Outputs of a program; a mask as probabilities of 0 and 1, at the picture's own size."""

    def predict(image: FolderImage) -> np.ndarray:
        pixels = read_pixels(image.listed.source(root), settings).pixels
        (found,) = program(np.broadcast_to(pixels, (1, *pixels.shape[:2], 3)))
        return np.eye(1 + task.num_classes)[found] if task.kind == "segment" else found

    return lambda images: list(map(predict, images))


def _predictions(
    predict: _Predict, batches: Iterator[list[FolderImage | ListedFile]]
) -> Iterator[tuple[FolderImage, np.ndarray] | ListedFile]:
    """Each file in order, an image with the network's output for it."""
    for batch in batches:
        images = [item for item in batch if isinstance(item, FolderImage)]
        outputs = iter(predict(images) if images else ())
        for item in batch:
            yield item if isinstance(item, ListedFile) else (item, next(outputs))


def _row(output: Output, item: tuple[FolderImage, np.ndarray] | ListedFile) -> _Row:
    if isinstance(item, ListedFile):
        return _Row(item, {"error": item.error})
    image, probabilities = item
    if image.frames > 1:
        _log.warning("%s: frame 1 of %d is used", image.listed.name, image.frames)
    try:
        return _Row(image.listed, output(image, probabilities))
    except CorruptImage as error:
        return _Row(image.listed, {"error": str(error)})
