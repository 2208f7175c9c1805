"""The task, and from texts in label columns to numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ufm_jax.data.cells import matched, text_of
from ufm_jax.data.issues import Issue
from ufm_jax.data.labels.settings import LabelSettings, parse_classes
from ufm_jax.data.records import Record

_YES = frozenset(("1", "yes", "true", "positive"))
_NO = frozenset(("0", "no", "false", "negative"))
_UNKNOWN = frozenset(("", "-1", "unknown"))


@dataclass(frozen=True)
class Task:
    """What is to be learnt of an image.

    Attributes:
        kind: 'single' (one of C classes), 'multi' (any of C findings), 'segment' (the class of each
            pixel).
        classes: C names; a segmentation's are the foreground, with the class numbers 1..C.
    """

    kind: Literal["single", "multi", "segment"]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in ("single", "multi", "segment"):
            raise ValueError(f"task of kind {self.kind!r}: use 'single', 'multi' or 'segment'")
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(f"the classes {self.classes} of a task must be named, each once")

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)


@dataclass(frozen=True)
class Targets:
    """Labels of R records as numbers.

    Attributes:
        classes: C names.
        values: float32 [R, C], 1 = has it, 0 = has not, nan = unknown.
        faults: The fault of each record whose label cannot be used, by position.
    """

    classes: tuple[str, ...]
    values: np.ndarray
    faults: Mapping[int, Issue]


def read_targets(
    records: Sequence[Record], labels: Sequence[str | None], settings: LabelSettings
) -> Targets:
    """Reads the labels of records whose attributes hold the label columns.

    ``labels`` are the values of the first label column, or what a picture brought in its place.
    """
    if len(settings.label_columns) > 1:
        return _columns_of_findings(records, settings)
    texts = [_values(label, settings.separator) for label in labels]
    names, number = parse_classes(settings.classes)
    if not names:
        names = tuple(sorted({text for label in texts for text in label}))
        number = {name: index for index, name in enumerate(names)}
    values = np.zeros((len(records), len(names)), np.float32)
    faults: dict[int, Issue] = {}
    for index, (record, label) in enumerate(zip(records, texts, strict=True)):
        unknown = [text for text in label if text not in number]
        if not label:
            faults[index] = _no_label(record, settings)
        elif unknown:
            reason = f"label {unknown[0]!r} is not one of the classes {', '.join(names)}"
            faults[index] = Issue("unknown_class", record.client, record.name, reason)
        if index in faults:
            values[index] = np.nan
        else:
            values[index, [number[text] for text in label]] = 1
    return Targets(names, values, faults)


def check_classes(labels: Sequence[str | None], settings: LabelSettings) -> None:
    """Refuses values in ``classes`` that no image has, unless nothing is to be learnt from them.

    Raises:
        DataError: If there is such a value; lists those that images have.
    """
    if len(settings.label_columns) == 1 and "train" in settings.split.required:
        _, number = parse_classes(settings.classes)
        found = {text for label in labels for text in _values(label, settings.separator)}
        matched("classes", tuple(number), found)


def _values(label: str | None, separator: str) -> tuple[str, ...]:
    """The values in a label."""
    parts = (label or "").split(separator) if separator else [label or ""]
    return tuple(filter(None, map(text_of, parts)))


def _columns_of_findings(records: Sequence[Record], settings: LabelSettings) -> Targets:
    """Reads each column as a finding."""
    columns = settings.label_columns
    values = np.full((len(records), len(columns)), np.nan, np.float32)
    faults: dict[int, Issue] = {}
    for index, record in enumerate(records):
        for place, column in enumerate(columns):
            text = text_of(record.attributes.get(column, "")).lower()
            if text in _YES or text in _NO:
                values[index, place] = text in _YES
            elif text not in _UNKNOWN:
                reason = f"{column}={text!r} is neither yes nor no (1, 0), nor empty (unknown)"
                faults[index] = Issue("unknown_class", record.client, record.name, reason)
        if index not in faults and np.isnan(values[index]).all():
            faults[index] = _no_label(record, settings)
    return Targets(columns, values, faults)


def _no_label(record: Record, settings: LabelSettings) -> Issue:
    columns = ", ".join(settings.label_columns)
    return Issue("no_label", record.client, record.name, f"has no label in {columns}")
