"""Choosing a probe's one free number on the validation split."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ufm_jax.data.labelled import LabelledData
from ufm_jax.evaluation.cases import multiclass_cases, multilabel_cases

Record = dict[str, float | str | None]

_FALL_BACK = {
    "auto": ("auroc", "balanced_accuracy", "loss"),
    "auroc": ("auroc", "balanced_accuracy", "loss"),
    "balanced_accuracy": ("balanced_accuracy", "loss"),
}
"""What decides, then what decides where the one before is undefined."""

_LEAST = float(np.finfo(np.float32).eps)
"""In the loss probabilities keep this distance from 0 and 1, so that no vote makes it infinite."""


class Choice(NamedTuple):
    """What was chosen among values.

    Attributes:
        position: Of the chosen value.
        chosen: JSON-able: the value under its name; 'by', the figure that decided, '' where nothing
            did; 'note', why nothing was chosen, or ''; and if something was, the figures on the
            validation split: macro 'auroc', 'balanced_accuracy', 'loss', None where undefined.
        table: Value and figures of each candidate; empty where nothing was chosen.
    """

    position: int
    chosen: Record
    table: tuple[Record, ...]


def choosing_rows(data: LabelledData, select: str) -> tuple[np.ndarray, str]:
    """Validation rows to choose by, int64 [n], and why there are none ('' where there are)."""
    if select == "last":
        return np.zeros(0, np.int64), "not chosen: config.evaluation.select='last'"
    rows = data.rows("val")
    return rows, "" if len(rows) else "not chosen: there is no validation split"


def choose(
    name: str,
    values: Sequence[float],
    candidates: Callable[[np.ndarray], Sequence[np.ndarray]],
    data: LabelledData,
    select: str,
) -> Choice:
    """Compares candidates on the validation split.

    The highest macro AUROC or balanced accuracy decides, or the lowest loss. An AUROC that is
    undefined, since no class has both positive and negative rows, gives way to the balanced
    accuracy, and this to the loss. Of equals the one of the lowest loss is taken, then the first.

    Args:
        name: Of the number.
        values: Candidates; the first is taken where there is nothing to choose by.
        candidates: ``rows [n] -> probabilities [n, C]`` of each value.
        data: Of a diagnosis task.
        select: As ``config.evaluation.select``.
    """
    rows, note = choosing_rows(data, select)
    if note:
        return Choice(0, {name: values[0], "by": "", "note": note}, ())
    found = [figures_of(probabilities, data, rows) for probabilities in candidates(rows)]
    by = next(figure for figure in _FALL_BACK[select] if math.isfinite(found[0][figure]))
    sign = 1 if by == "loss" else -1
    ranks = [(sign * figures[by], figures["loss"]) for figures in found]
    position = min(range(len(ranks)), key=ranks.__getitem__)
    table = tuple(_record(name, *pair) for pair in zip(values, found, strict=True))
    return Choice(position, {**table[position], "by": by, "note": ""}, table)


def figures_of(probabilities: np.ndarray, data: LabelledData, rows: np.ndarray) -> dict[str, float]:
    """Macro 'auroc' and 'balanced_accuracy' (nan = undefined), and the mean cross entropy, 'loss'.

    Args:
        probabilities: [n, C].
        data: Of a diagnosis task; findings of unknown label do not count.
        rows: [n].
    """
    targets, classes = data.targets[rows].astype(np.float64), data.task.classes
    kept = np.clip(probabilities.astype(np.float64), _LEAST, 1 - _LEAST)
    if data.task.kind == "multi":
        cases = multilabel_cases(probabilities, targets, classes)
        loss = np.nanmean(-targets * np.log(kept) - (1 - targets) * np.log1p(-kept))
    else:
        cases = multiclass_cases(probabilities, data.labels[rows], classes)
        loss = -(targets * np.log(kept)).sum(1).mean()
    measured = cases.measure(np.ones((1, len(rows))))
    names = ("auroc", "balanced_accuracy")
    return {name: float(measured[name][0]) for name in names} | {"loss": float(loss)}


def _record(name: str, value: float, figures: dict[str, float]) -> Record:
    defined = {figure: x if math.isfinite(x) else None for figure, x in figures.items()}
    return {name: value, **defined}
