"""Readers' calls from a CSV, and how they compare with a model at its threshold.

The file has the columns ``image``, ``reader`` and ``call``; further columns are ignored. A call is
a class name, or in a task of two classes 1 for the positive class and 0 for the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ufm_jax.data.cells import name_of, near_equal, text_of
from ufm_jax.data.csv_files import read_csv
from ufm_jax.errors import DataError
from ufm_jax.evaluation.intervals import LEVEL
from ufm_jax.evaluation.paired_tests import McNemar, mcnemar
from ufm_jax.evaluation.results import Estimate
from ufm_jax.runs.stored import as_json

_COLUMNS = ("image", "reader", "call")
_SHOWN = 5


@dataclass(frozen=True)
class ReaderCalls:
    """Calls of Q readers for R images: class numbers, int64 [Q, R], -1 = not read."""

    readers: tuple[str, ...]
    calls: np.ndarray


@dataclass(frozen=True)
class ReaderResult:
    """One reader, on the rows that he or she read.

    Attributes:
        reader: The reader's name.
        num_rows: Rows that the reader read.
        sensitivity: The reader's, with its Wilson interval.
        specificity: The reader's, with its Wilson interval.
        model_sensitivity: The model's, at its threshold on the same rows.
        model_specificity: The model's.
        against_model: 'sensitivity' (positive rows), 'specificity' (negative rows), 'accuracy' ->
            McNemar's test; first = the reader, second = the model.
    """

    reader: str
    num_rows: int
    sensitivity: Estimate
    specificity: Estimate
    model_sensitivity: Estimate
    model_specificity: Estimate
    against_model: Mapping[str, McNemar]

    @property
    def roc_point(self) -> tuple[float, float]:
        """The reader's point on the ROC plot: (false positive rate, true positive rate)."""
        return 1 - self.specificity.value, self.sensitivity.value

    def to_json(self) -> dict[str, Any]:
        """Nested dicts that ``json.dumps`` takes as they are."""
        return as_json(self) | {"roc_point": as_json(self.roc_point)}


def read_calls(
    path: Path | str, names: Sequence[str], classes: Sequence[str], positive: str | None = None
) -> ReaderCalls:
    """Reads a CSV of readers' calls.

    Args:
        path: The file, UTF-8.
        names: R names of the rows' images, as the CSV writes them.
        classes: C names.
        positive: The class that '1' stands for in a task of two classes; None: the second.

    Raises:
        DataError: If the file is not a CSV with these columns, names an image that is not among the
            rows, or has a call that is not a class, an empty reader, two calls of a reader for an
            image, or readers whose names differ by case, blanks or leading zeros alone.
    """
    path, classes = Path(path), tuple(classes)
    positive = positive or classes[-1]
    if positive not in classes:
        raise DataError(f"positive class {positive!r}: name one of {', '.join(classes)}")
    numbers = _call_numbers(classes, positive)
    rows = {name_of(name): row for row, name in enumerate(names)}
    rows |= {name: row for row, name in enumerate(names)}
    found: dict[tuple[str, int], int] = {}
    faults: list[str] = []
    for row in read_csv(path, _COLUMNS)[1]:
        image, reader = row.cells["image"], text_of(row.cells["reader"])
        call = name_of(row.cells["call"])
        number = rows.get(image, rows.get(name_of(image)))
        if number is None:
            faults.append(f"{row.place}: image {image!r} is not among the {len(names)} evaluated")
        elif not reader:
            faults.append(f"{row.place}: the reader is empty")
        elif call not in numbers:
            faults.append(f"{row.place}: call {call!r} is not one of {', '.join(numbers)}")
        elif (reader, number) in found:
            faults.append(f"{row.place}: reader {reader!r} has called {image!r} before")
        else:
            found[reader, number] = numbers[call]
    if faults:
        more = f"\n  ... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        shown = "\n".join(f"  {fault}" for fault in faults[:_SHOWN])
        raise DataError(f"{path}: {len(faults)} rows cannot be used; mend them:\n{shown}{more}")
    if not found:
        raise DataError(f"{path} has no calls below its header")
    readers = tuple(sorted({reader for reader, _ in found}))
    if alike := near_equal(readers):
        raise DataError(
            f"{path}: the readers {alike[0]} may be one: write them alike or rename one"
        )
    calls = np.full((len(readers), len(names)), -1, np.int64)
    for (reader, place), number in found.items():
        calls[readers.index(reader), place] = number
    return ReaderCalls(readers, calls)


def compare_readers(
    read: ReaderCalls,
    labels: np.ndarray,
    model_called: np.ndarray,
    positive: int,
) -> tuple[ReaderResult, ...]:
    """Sensitivity and specificity of each reader and of the model, one class against the rest.

    Args:
        read: Calls [Q, R].
        labels: int [R], class numbers.
        model_called: bool [R], whether the model calls the class, at its threshold.
        positive: Number of the class.

    Raises:
        ValueError: If shapes do not fit.
    """
    truth, model = np.asarray(labels) == positive, np.asarray(model_called, bool)
    if {truth.shape, model.shape} != {read.calls.shape[1:]}:
        raise ValueError(
            f"labels {truth.shape} and calls of the model {model.shape} for readers' calls of "
            f"{read.calls.shape[1]} rows"
        )
    return tuple(
        _compare(name, calls == positive, truth, model, calls >= 0)
        for name, calls in zip(read.readers, read.calls, strict=True)
    )


def wilson(successes: int, total: int) -> Estimate:
    """A proportion with Wilson's score interval (JASA 22:209, 1927); nan without cases."""
    if not total:
        return Estimate(np.nan, np.nan, np.nan, 0, "no such case")
    low, high = stats.binomtest(successes, total).proportion_ci(LEVEL, "wilson")
    return Estimate(successes / total, float(low), float(high), total)


def _compare(
    reader: str,
    called: np.ndarray,
    truth: np.ndarray,
    model: np.ndarray,
    read: np.ndarray,
) -> ReaderResult:
    """One reader against the model, on the rows that he or she read."""
    rows = {"sensitivity": read & truth, "specificity": read & ~truth, "accuracy": read}
    right, model_right = called == truth, model == truth

    def proportion(correct: np.ndarray, which: str) -> Estimate:
        return wilson(int(correct[rows[which]].sum()), int(rows[which].sum()))

    return ReaderResult(
        reader=reader,
        num_rows=int(read.sum()),
        sensitivity=proportion(right, "sensitivity"),
        specificity=proportion(right, "specificity"),
        model_sensitivity=proportion(model_right, "sensitivity"),
        model_specificity=proportion(model_right, "specificity"),
        against_model={name: mcnemar(right[r], model_right[r]) for name, r in rows.items()},
    )


def _call_numbers(classes: tuple[str, ...], positive: str) -> dict[str, int]:
    """Text of a call -> class number; a class named 0 or 1 keeps its own number."""
    if len(classes) != 2:
        return {name_of(name): number for number, name in enumerate(classes)}
    number = classes.index(positive)
    return {"0": 1 - number, "1": number} | {name_of(name): n for n, name in enumerate(classes)}
