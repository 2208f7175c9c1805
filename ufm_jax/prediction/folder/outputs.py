"""What is written about a folder of images: a table, and for segmentations masks and overlays.

``OUT/predictions.csv`` has a row for each file, in order; ``error`` says why one has no prediction.
Diagnosis: image, called, prob_<class>..., error. Segmentation: image, mask, pixels_<class>...,
mm2_<class>... where a spacing is known, <measurement>_<unit>, error; and beside the table

    OUT/masks/*.png         uint8 class numbers at the file's size; 0 and 255 for one class
    OUT/overlays/*.png      the pictures with tinted and outlined regions; of scans what is kept
    OUT/dicom/*.png.dcm     DICOM segmentations of DICOM files, where asked for
    OUT/classes.csv         value in the masks, class, colour in the overlays
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from statistics import median

import numpy as np
from PIL import Image

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.data.csv_files import writing_csv
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.labels.task import Task
from ufm_jax.data.scans.kinds import is_dicom
from ufm_jax.data.settings import DataSettings
from ufm_jax.evaluation.biometry import UNITS
from ufm_jax.evaluation.calls import make_calls
from ufm_jax.evaluation.predictions_csv import SEPARATOR
from ufm_jax.evaluation.thresholds import Threshold
from ufm_jax.files import private_file, private_folder
from ufm_jax.prediction.folder.dicom_masks import write_segmentation
from ufm_jax.prediction.folder.files import FolderImage, ListedFile, ScanFrame, read_pixels
from ufm_jax.prediction.measurement import measure
from ufm_jax.prediction.native_masks import native_mask
from ufm_jax.prediction.overlay import class_colour, draw_regions

TABLE, KEY = "predictions.csv", "classes.csv"
MASKS, OVERLAYS, DICOM = "masks", "overlays", "dicom"

_log = logging.getLogger(__name__)

_FULL = 255
_SUMMARIES: Mapping[str, Callable[[Sequence[float]], float]] = {"median": median, "most": max}
"""What is said of a number over the frames of a clip."""

Cells = Mapping[str, str]
"""Values of a row by column; the cell of an absent column is empty."""


@contextmanager
def open_table(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Cells], None]]:
    """Yields a function that adds a row; the table is there whole or not at all."""
    header = ("image", *columns, "error")
    with writing_csv(path, header) as add:
        yield lambda cells: add([cells.get(column, "") for column in header])


@dataclass(frozen=True)
class DiagnosisOutput:
    """Turns the prediction of a diagnosis into a row of the table.

    Attributes:
        task: The task, with its classes.
        thresholds: See ``calls.calling_thresholds``; empty: the most probable class is called.
    """

    task: Task
    thresholds: Mapping[str, Threshold]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns between ``image`` and ``error``."""
        return ("called", *(f"prob_{name}" for name in self.task.classes))

    @property
    def summary_columns(self) -> tuple[str, ...]:
        """Columns of a clip's summary."""
        return self.columns

    @property
    def note(self) -> str:
        """How the table is to be read, in one line."""
        if not self.thresholds:
            return "called is the most probable class"
        rules = [
            f"{name} from a probability of {t.value:.4g}" for name, t in self.thresholds.items()
        ]
        return f"called: {', '.join(rules)}"

    def __call__(self, image: FolderImage, probabilities: np.ndarray) -> Cells:
        """Cells of an image with ``probabilities`` [C]; called from several threads at once."""
        del image
        return self._called(probabilities)

    def summary(self, frames: Sequence[Cells]) -> Cells:
        """Cells of a clip: each probability's mean over its frames, and what is called by it."""
        names = [f"prob_{name}" for name in self.task.classes]
        levels = np.array([[float(cells[name]) for name in names] for cells in frames])
        return self._called(levels.mean(axis=0).astype(np.float32))

    def _called(self, probabilities: np.ndarray) -> Cells:
        task = self.task
        assert task.kind != "segment"
        (calls,) = make_calls(probabilities[None], task.kind, task.classes, self.thresholds)
        cells = {f"prob_{n}": str(p) for n, p in zip(task.classes, probabilities, strict=True)}
        return cells | {"called": SEPARATOR.join(np.array(task.classes)[calls])}


@dataclass(frozen=True)
class SegmentationOutput:
    """Turns a predicted mask into a row of the table, a mask of the file's size and an overlay.

    Attributes:
        task: The task, with its foreground classes.
        settings: How masks are made and measured.
        data: How files are read.
        images: The folder that is read.
        out: The folder that is written.
        files: Name of the mask of each image, see ``mask_names``.
        spacing: mm per pixel where a file does not say it; 0 = unknown.
        in_mm: Whether a spacing is known of any image; else lengths are in pixels.
        overlays: Whether overlays are drawn.
        dicom: What tells this prediction from others of the same files, in the DICOM segmentations
            that are written; '' for none.
    """

    task: Task
    settings: EvaluationConfig
    data: DataSettings
    images: Path
    out: Path
    files: Mapping[str, str]
    spacing: float
    in_mm: bool
    overlays: bool
    dicom: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns between ``image`` and ``error``."""
        return ("mask", *["dicom"][: bool(self.dicom)], *self._sizes)

    @property
    def summary_columns(self) -> tuple[str, ...]:
        """Columns of a clip's summary."""
        return tuple(f"{which}_{column}" for column in self._sizes for which in _SUMMARIES)

    @property
    def _sizes(self) -> tuple[str, ...]:
        """Columns that hold numbers."""
        units = ("pixels", "mm2") if self.in_mm else ("pixels",)
        areas = [f"{unit}_{name}" for unit in units for name in self.task.classes]
        return (*areas, *filter(None, [self._measured]))

    @property
    def note(self) -> str:
        """How the table is to be read, in one line."""
        return f"{KEY} names the values in {MASKS}/ and the colours in {OVERLAYS}/"

    @property
    def _measured(self) -> str:
        """The measurement's column; '' if nothing is measured."""
        measurement = self.settings.measurement
        if not measurement:
            return ""
        unit = UNITS[measurement]
        return f"{measurement}_{'px' if unit == 'mm' and not self.in_mm else unit}"

    def write_key(self) -> None:
        """Writes what values and colours mean."""
        with writing_csv(self.out / KEY, ("value", "class", "colour")) as add:
            add((0, "background", ""))
            for number, name in enumerate(self.task.classes, start=1):
                colour = "#{:02x}{:02x}{:02x}".format(*class_colour(number))
                add((number * self._scale, name, colour))

    def __call__(self, image: FolderImage, probabilities: np.ndarray) -> Cells:
        """Writes files and returns the cells of an image; called from several threads at once.

        Args:
            image: The image.
            probabilities: [P, P, 1 + C].

        Raises:
            CorruptImage: If the file can no longer be read.
        """
        mask = native_mask(probabilities, image.native, self.settings.least_component)
        listed = image.listed
        file = self.files[listed.name]
        if self.overlays:
            # Read again, since memory could not hold every picture until its mask is known.
            pixels = read_pixels(listed.source(self.images), self.data).pixels
            if pixels.shape[:2] != mask.shape:
                raise CorruptImage("changed while it was predicted")
            _save(draw_regions(pixels, mask), self.out / OVERLAYS / file)
        placed = listed.part.frame.cut.placed(mask) if listed.part else mask
        _save(placed * np.uint8(self._scale), self.out / MASKS / file)
        cells = {"mask": f"{MASKS}/{file}", **self._measures(mask, listed)}
        if self.dicom and listed.part and is_dicom(self.images / listed.part.file):
            cells["dicom"] = self._segmentation(placed, listed.part, f"{DICOM}/{file}.dcm")
        return cells

    def _segmentation(self, mask: np.ndarray, part: ScanFrame, file: str) -> str:
        """Writes a mask as DICOM; the file's name, or '' if that cannot be."""
        source, number = self.images / part.file, part.frame.number
        try:
            write_segmentation(source, number, mask, self.task.classes, self.dicom, self.out / file)
        except CorruptImage as error:
            _log.warning("%s: no DICOM segmentation: it %s", part.frame.name, error)
            return ""
        return file

    def summary(self, frames: Sequence[Cells]) -> Cells:
        """Cells of a clip: the median and the largest of each number over its frames."""
        cells = {}
        for column in self._sizes:
            if known := [float(frame[column]) for frame in frames if frame[column]]:
                for which, statistic in _SUMMARIES.items():
                    cells[f"{which}_{column}"] = f"{statistic(known):.6g}"
        return cells

    def _measures(self, mask: np.ndarray, listed: ListedFile) -> Cells:
        """Areas, and the measurement, of a mask."""
        classes = self.task.classes
        spacing = (listed.part.scan.mm if listed.part else None) or self.spacing or np.nan
        counts = np.bincount(mask.reshape(-1), minlength=1 + len(classes))[1:].tolist()
        cells = {f"pixels_{name}": str(n) for name, n in zip(classes, counts, strict=True)}
        for name, count in zip(classes, counts, strict=True):
            cells[f"mm2_{name}"] = _number(count * spacing**2)
        if self._measured:
            scale = spacing if self.in_mm else 1.0
            cells[self._measured] = _number(measure(mask, scale, self.settings, classes))
        return cells

    @property
    def _scale(self) -> int:
        """Value of class 1 in a mask file."""
        return _FULL if self.task.num_classes == 1 else 1


Output = DiagnosisOutput | SegmentationOutput


def mask_names(names: Sequence[str]) -> dict[str, str]:
    """A different name for the mask of each image.

    A mask has its image's name with the suffix .png, so that images and masks pair by their stems.
    Images whose masks would share a name, upper and lower case being equal, keep their own suffix
    before .png.

    Args:
        names: Paths below the folder of the images.

    Returns:
        Paths below the folder of the masks.
    """
    plain = {name: str(PurePosixPath(name).with_suffix(".png")) for name in names}
    wanted = Counter(file.casefold() for file in plain.values())
    # A mask must not have the name of a folder of masks.
    folders = {str(up).casefold() for name in names for up in PurePosixPath(name).parents}
    files = {
        name: file
        for name, file in plain.items()
        if wanted[file.casefold()] == 1 and file.casefold() not in folders
    }
    taken = folders | {file.casefold() for file in files.values()}
    for name in names:
        if name in files:
            continue
        file = f"{name}.png"
        while file.casefold() in taken:
            file += ".png"
        files[name] = file
        taken.add(file.casefold())
    return files


def _number(value: float) -> str:
    """A cell; empty where the number is unknown."""
    return f"{value:.6g}" if np.isfinite(value) else ""


def _save(pixels: np.ndarray, path: Path) -> None:
    private_folder(path.parent)
    # Level 3 takes less than half the time of the default, for files a sixth larger.
    Image.fromarray(pixels).save(private_file(path), compress_level=3)
