"""Pictures that show how a model does: confidently right and wrong, or best and worst."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.settings import DataSettings
from ufm_jax.evaluation.predictions import (
    DiagnosisPredictions,
    Predictions,
    SegmentationPredictions,
)
from ufm_jax.prediction.folder.files import read_pixels
from ufm_jax.report.evaluation_types import EvaluationPicture

_EACH = 6

MaskOf = Callable[[int], np.ndarray]
"""``row -> predicted mask`` at the size of the file."""
HeatOf = Callable[[int, int], np.ndarray]
"""``(row, class) -> map`` [h, w] of what speaks for the class in the stored picture."""


def example_pictures(
    data: LabelledData,
    predictions: Predictions,
    settings: DataSettings,
    *,
    mask_of: MaskOf | None = None,
    heat_of: HeatOf | None = None,
    heats: int = 0,
) -> list[EvaluationPicture]:
    """Chooses and draws examples.

    Args:
        data: The images.
        predictions: For some of its rows, a diagnosis with calls.
        settings: How the images' files are read.
        mask_of: Predicts a row's mask again, for a segmentation.
        heat_of: Makes a map for a row, for a diagnosis.
        heats: How many pictures of each kind get a map.
    """
    rows = {name: row for row, name in enumerate(data.names)}
    if isinstance(predictions, SegmentationPredictions):
        assert mask_of is not None
        return [
            _outlined(data, rows[predictions.names[i]], title, float(dice), settings, mask_of)
            for title, i, dice in _by_dice(predictions)
        ]
    return [
        _diagnosed(data, rows[predictions.names[i]], title, predictions, i, heat_of, rank < heats)
        for title, chosen in _by_confidence(predictions).items()
        for rank, i in enumerate(chosen)
    ]


def _by_confidence(predictions: DiagnosisPredictions) -> dict[str, list[int]]:
    """Title -> rows, by falling probability of what was called."""
    called, known = predictions.calls(), ~np.isnan(predictions.targets)
    right = ((called == (predictions.targets == 1)) | ~known).all(1)
    sure = np.where(called, predictions.probabilities, 1 - predictions.probabilities).min(1)
    order = np.argsort(-sure, kind="stable")
    return {
        "Confidently right": [int(i) for i in order if right[i]][:_EACH],
        "Confidently wrong": [int(i) for i in order if not right[i]][:_EACH],
    }


def _by_dice(predictions: SegmentationPredictions) -> list[tuple[str, int, float]]:
    """Title, row and mean Dice over the classes that a mask shows: best, middle and worst."""
    scores = predictions.scores
    shown = (scores.reference > 0) | (scores.predicted > 0)
    total = np.where(shown, scores.dice, 0).sum(1)
    dice = np.where(shown.any(1), total / np.maximum(shown.sum(1), 1), np.nan)
    order = [int(i) for i in np.argsort(-dice, kind="stable") if np.isfinite(dice[i])]
    half, middle = _EACH // 2, max(0, len(order) // 2 - _EACH // 4)
    places = {
        "Best": order[:half],
        "In the middle": order[middle : middle + half],
        "Worst": order[-half:],
    }
    seen: set[int] = set()
    chosen = []
    for title, found in places.items():
        chosen += [(title, i, dice[i]) for i in found if i not in seen]
        seen.update(found)
    return chosen


def _outlined(
    data: LabelledData,
    row: int,
    title: str,
    dice: float,
    settings: DataSettings,
    mask_of: MaskOf,
) -> EvaluationPicture:
    height, width = data.native_size[row].tolist()
    return EvaluationPicture(
        title=title,
        caption=f"{data.names[row]}: Dice {dice:.2f}",
        pixels=_at_native(data, row, (height, width), settings),
        mask=mask_of(row),
        reference=data.mask_at_native(row),
    )


def _diagnosed(
    data: LabelledData,
    row: int,
    title: str,
    predictions: DiagnosisPredictions,
    i: int,
    heat_of: HeatOf | None,
    drawn: bool,
) -> EvaluationPicture:
    classes, probabilities = predictions.classes, predictions.probabilities[i]
    truth = [name for name, has in zip(classes, predictions.targets[i] == 1, strict=True) if has]
    said = ", ".join(f"{n} {p:.2f}" for n, p in zip(classes, probabilities, strict=True))
    number = int(probabilities.argmax())
    heat = heat_of(row, number) if heat_of and drawn else None
    about = f"; map: what speaks for {classes[number]}" if heat is not None else ""
    return EvaluationPicture(
        title=title,
        caption=f"{data.names[row]}: is {' and '.join(truth) or 'none'}; {said}{about}",
        pixels=_stored(data, row),
        heat=heat,
    )


def _stored(data: LabelledData, row: int) -> np.ndarray:
    """The picture as the model is given it, uint8 [h, w] or [h, w, 3]."""
    found = data.store.read(np.array([row]))
    height, width = found["extent"][0].tolist()
    pixels: np.ndarray = found["image"][0, :height, :width]
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _at_native(
    data: LabelledData, row: int, size: tuple[int, int], settings: DataSettings
) -> np.ndarray:
    """The file's own pixels or, without a readable file, the stored ones enlarged."""
    try:
        pixels = read_pixels(data.images[row], settings).pixels
    except CorruptImage:
        pixels = np.zeros((0, 0, 1), np.uint8)
    if pixels.shape[:2] != size:
        height, width = size
        return np.asarray(Image.fromarray(_stored(data, row)).resize((width, height)))
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
