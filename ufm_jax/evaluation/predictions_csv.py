"""Predictions for a split as a CSV: a row an image, read back to the last bit.

    diagnosis     image, client, group, label, called, prob_<class>...
    findings      image, client, group, label_<class>..., called, prob_<class>...
    segmentation  image, client, group, then for each class dice_, iou_, hd95_px_, assd_px_,
                  hd95_mm_, assd_mm_, pixels_ and reference_pixels_<class>, then where something was
                  measured measured_<unit> and reference_<unit>

``label`` and ``called`` are class names; ';' separates several findings that are called.
label_<class> is 1 or 0. A cell is empty where its value is unknown or undefined.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ufm_jax.data.cells import integer_of, name_of, number_of
from ufm_jax.data.csv_files import read_csv, writing_csv
from ufm_jax.errors import DataError
from ufm_jax.evaluation.biometry import UNITS
from ufm_jax.evaluation.predictions import (
    DiagnosisPredictions,
    Predictions,
    SegmentationPredictions,
)
from ufm_jax.evaluation.segmentation import FIGURES, MaskScores

_PIXELS = {"predicted": "pixels", "reference": "reference_pixels"}
SEPARATOR = ";"
"""It separates the findings that are called."""
_LARGEST = 2.0**53
"""From this number on, doubles cannot hold every whole number."""


def table_path(workdir: Path, split: str) -> Path:
    """The path of the predictions for a split in a run's folder."""
    return workdir / f"predictions_{split}.csv"


def write_table(path: Path, predictions: Predictions) -> None:
    """Writes predictions, and the calls of a diagnosis, whole or not at all."""
    columns: dict[str, Sequence[str]] = {
        "image": predictions.names,
        "client": predictions.clients,
        "group": _numbers(predictions.groups),
    }
    if isinstance(predictions, DiagnosisPredictions):
        columns |= _diagnosis_columns(predictions)
    else:
        columns |= _segmentation_columns(predictions)
    with writing_csv(path, tuple(columns)) as add:
        for cells in zip(*columns.values(), strict=True):
            add(cells)


def read_table(path: Path) -> Predictions:
    """Reads what ``write_table`` wrote.

    Raises:
        DataError: If the file is absent, is not such a table, or has a cell that cannot be read;
            names file, row, column and image.
    """
    table = _read(path)
    if classes := table.classes("prob_"):
        return _read_diagnosis(table, classes)
    if classes := table.classes("dice_"):
        return _read_segmentation(table, classes)
    raise DataError(
        f"{path} has neither columns of probabilities nor of Dice: give a table of predictions"
    )


@dataclass(frozen=True)
class _Table:
    """The cells of a file by column."""

    path: Path
    columns: Mapping[str, tuple[str, ...]]
    places: tuple[str, ...]

    def classes(self, prefix: str) -> tuple[str, ...]:
        """The classes that have a column with this prefix."""
        names = (name for name in self.columns if name.startswith(prefix))
        return tuple(name.removeprefix(prefix) for name in names)

    def texts(self, column: str) -> tuple[str, ...]:
        """The cells of a column."""
        if column not in self.columns:
            raise DataError(f"{self.path} lacks the column {column!r}; evaluate that run again")
        return self.columns[column]

    def floats(self, column: str) -> np.ndarray:
        """A column as float64 [R]; nan where it is empty."""
        return np.array(self._numbers(column, number_of), np.float64)

    def integers(self, column: str) -> np.ndarray:
        """A column as int64 [R]."""
        found = np.array(self._numbers(column, integer_of), np.float64)
        self._check(column, abs(found) < _LARGEST, "is not a whole number below 2^53")
        return found.astype(np.int64)

    def probabilities(self, column: str) -> np.ndarray:
        """A column as float64 [R], all in 0 to 1."""
        found = self.floats(column)
        self._check(column, (found >= 0) & (found <= 1), "is not a probability")
        return found

    def findings(self, column: str) -> np.ndarray:
        """A column as float64 [R], 1 or 0, or nan where it is empty."""
        found = self.floats(column)
        self._check(column, np.isnan(found) | np.isin(found, (0, 1)), "is neither 1, 0 nor empty")
        return found

    def members(self, column: str, classes: tuple[str, ...], between: str) -> np.ndarray:
        """Which classes each cell names, bool [R, C]; ``between`` separates them, '' = one each."""
        found = np.zeros((len(self.texts(column)), len(classes)), bool)
        for row, text in enumerate(self.texts(column)):
            names = list(map(name_of, text.split(between) if between else [text]))
            names = [name for name in names if name or not between]
            if not set(names) <= set(classes):
                raise self._fault(column, row, f"is not one of {', '.join(classes)}")
            found[row, [classes.index(name) for name in names]] = True
        return found

    def _numbers(self, column: str, read: Callable[[str], float | None]) -> list[float | None]:
        """The values of a column's cells."""
        found = []
        for row, text in enumerate(self.texts(column)):
            try:
                found.append(read(text))
            except ValueError as error:
                raise self._fault(column, row, str(error)) from None
        return found

    def _check(self, column: str, good: np.ndarray, what: str) -> None:
        if not good.all():
            raise self._fault(column, int(good.argmin()), what)

    def _fault(self, column: str, row: int, what: str) -> DataError:
        cell, image = self.columns[column][row], self.columns["image"][row]
        return DataError(f"{self.places[row]}: {column} of {image} is {cell!r}, which {what}")


def _read(path: Path) -> _Table:
    """The cells of a file, once it is sure that each image has one row."""
    if not path.exists():
        raise DataError(f"{path} does not exist: evaluate that run first")
    header, rows = read_csv(path, ["image"], errors="surrogateescape")
    if not rows:
        raise DataError(f"{path} has no row below its header: evaluate that run again")
    names = Counter(row.cells["image"] for row in rows)
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(f"{path}: image {twice[0]} has two rows")
    columns = {name: tuple(row.cells[name] for row in rows) for name in header}
    return _Table(path, columns, tuple(row.place for row in rows))


def _numbers(values: np.ndarray) -> list[str]:
    """The shortest texts that are read as the same doubles; '' for nan."""
    return ["" if number != number else repr(number) for number in values.tolist()]


def _diagnosis_columns(predictions: DiagnosisPredictions) -> dict[str, Sequence[str]]:
    p, called = predictions, predictions.calls()
    labels: dict[str, Sequence[str]]
    if p.kind == "multi":
        known = {0.0: "0", 1.0: "1"}
        labels = {
            f"label_{name}": [known.get(value, "") for value in p.targets[:, c].tolist()]
            for c, name in enumerate(p.classes)
        }
    else:
        labels = {"label": [p.classes[number] for number in p.labels]}
    calls = [SEPARATOR.join(p.classes[c] for c in np.flatnonzero(row)) for row in called]
    probabilities = {
        f"prob_{name}": _numbers(p.probabilities[:, c]) for c, name in enumerate(p.classes)
    }
    return {**labels, "called": calls, **probabilities}


def _read_diagnosis(table: _Table, classes: tuple[str, ...]) -> DiagnosisPredictions:
    single = "label" in table.columns
    if single:
        targets = table.members("label", classes, "").astype(np.float32)
    else:
        columns = [table.findings(f"label_{name}") for name in classes]
        targets = np.stack(columns, axis=1).astype(np.float32)
    return DiagnosisPredictions(
        names=table.texts("image"),
        clients=table.texts("client"),
        groups=table.integers("group"),
        probabilities=np.stack([table.probabilities(f"prob_{name}") for name in classes], axis=1),
        labels=targets.argmax(1) if single else np.full(len(targets), -1),
        targets=targets,
        classes=classes,
        called=table.members("called", classes, "" if single else SEPARATOR),
    )


def _segmentation_columns(predictions: SegmentationPredictions) -> dict[str, Sequence[str]]:
    columns: dict[str, Sequence[str]] = {
        f"{_PIXELS.get(score, score)}_{name}": _numbers(getattr(predictions.scores, score)[:, c])
        for c, name in enumerate(predictions.classes)
        for score in (*FIGURES, *_PIXELS)
    }
    if predictions.measured is not None and predictions.reference is not None:
        columns[f"measured_{predictions.unit}"] = _numbers(predictions.measured)
        columns[f"reference_{predictions.unit}"] = _numbers(predictions.reference)
    return columns


def _read_segmentation(table: _Table, classes: tuple[str, ...]) -> SegmentationPredictions:
    unit = next((unit for unit in UNITS.values() if f"measured_{unit}" in table.columns), "")
    scores = {
        score: np.stack([table.floats(f"{score}_{name}") for name in classes], axis=1)
        for score in FIGURES
    }
    counts = {
        score: np.stack([table.integers(f"{column}_{name}") for name in classes], axis=1)
        for score, column in _PIXELS.items()
    }
    return SegmentationPredictions(
        names=table.texts("image"),
        clients=table.texts("client"),
        groups=table.integers("group"),
        scores=MaskScores(**scores, **counts),
        classes=classes,
        measured=table.floats(f"measured_{unit}") if unit else None,
        reference=table.floats(f"reference_{unit}") if unit else None,
        unit=unit,
    )
