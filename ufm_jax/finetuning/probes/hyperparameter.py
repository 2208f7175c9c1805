"""The choice of a probe's one hyperparameter: on the validation split, or by cross-validation."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.labels.splits import make_groups
from ufm_jax.evaluation.cases import multiclass_cases, multilabel_cases
from ufm_jax.runs.stored import as_json

Record = dict[str, float | str | None]

_FALL_BACK = {
    "auto": ("auroc", "balanced_accuracy", "loss"),
    "auroc": ("auroc", "balanced_accuracy", "loss"),
    "balanced_accuracy": ("balanced_accuracy", "loss"),
}
"""The figure that decides, then those that decide if the one before is undefined."""

_LEAST = float(np.finfo(np.float32).eps)
"""Probabilities in the loss keep this distance from 0 and 1, so that no vote makes it infinite."""

_FOLDS = 5
"""Folds of a cross-validation, if the training split has so many groups."""

Candidates = Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]
"""``(fit_rows [n], asked_rows [m]) -> probabilities``, [m, C] for each candidate value."""


class Validation(NamedTuple):
    """The rows that candidate values are compared on.

    Attributes:
        parts: Rows to fit to and rows to predict, int64 each, with no group in both; empty if
            nothing is chosen.
        note: What the predicted rows are, or why nothing is chosen.
    """

    parts: tuple[tuple[np.ndarray, np.ndarray], ...]
    note: str

    @property
    def asked(self) -> np.ndarray:
        """All rows to predict, int64 [n]."""
        return np.concatenate([np.zeros(0, np.int64), *(asked for _, asked in self.parts)])


class Choice(NamedTuple):
    """The value that was chosen.

    Attributes:
        position: Its position among the candidates.
        chosen: As JSON has it: the value under its name; 'by', the figure that decided, or '' if
            nothing was chosen; 'note', as in ``Validation``; and if something was chosen, the
            figures: macro 'auroc', 'balanced_accuracy', 'loss', None = undefined.
        table: Value and figures of each candidate; empty if nothing was chosen.
    """

    position: int
    chosen: Record
    table: tuple[Record, ...]


def validation_of(data: LabelledData, rows: np.ndarray, select: str) -> Validation:
    """The validation split or, without one, folds of the training rows.

    Folds hold whole groups and are stratified by class.

    Args:
        data: The data of a diagnosis task.
        rows: Training rows that the probe may use, int64 [n].
        select: As ``config.evaluation.select``.
    """
    if select == "last":
        return Validation((), "not chosen: config.evaluation.select='last'")
    if len(val := data.rows("val")):
        return Validation(((rows, val),), "on the validation split")
    if parts := _folds(data, rows):
        return Validation(parts, "in a cross-validation over groups of the training split")
    return Validation(
        (), "not chosen: there is no validation split, and too few groups to cross-validate"
    )


def _folds(data: LabelledData, rows: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """The rows outside each fold, and the fold; no fold if rows outside one show a single class."""
    targets = data.targets[rows]
    names = [data.group_names[group] for group in data.groups[rows]]
    groups = make_groups(names, targets == 1)
    classes = groups.strata[groups.ids]
    count = min(_FOLDS, len(groups.names), int(np.unique(classes, return_counts=True)[1].max()))
    if count < 2:
        return ()
    with warnings.catch_warnings():
        # A class of fewer images than folds cannot be in every fold.
        warnings.filterwarnings("ignore", message="The least populated class")
        pieces = list(StratifiedGroupKFold(count).split(classes, classes, groups.ids))
    if not all(len(inside) and tells_apart(targets[outside]) for outside, inside in pieces):
        return ()
    return tuple((rows[outside], rows[inside]) for outside, inside in pieces)


def tells_apart(targets: np.ndarray) -> bool:
    """Whether some of the rows of targets [n, C] show a class that others lack."""
    return bool(((targets == 1).any(0) & (targets == 0).any(0)).any())


def choose_value(
    name: str,
    values: Sequence[float],
    candidates: Candidates,
    data: LabelledData,
    validation: Validation,
    select: str,
) -> Choice:
    """Compares candidates on all predicted rows of ``validation`` together.

    The highest macro AUROC or balanced accuracy decides, or the lowest loss. An AUROC that is
    undefined, since no class has both positive and negative rows, gives way to the balanced
    accuracy, and this to the loss. Among equals the lowest loss decides, then the first place.

    Args:
        name: The name of the hyperparameter.
        values: Candidates; the first is taken if there is nothing to choose by.
        candidates: Predicts with each value.
        data: The data of a diagnosis task.
        validation: The rows that candidates are compared on.
        select: As ``config.evaluation.select``.
    """
    if not validation.parts:
        return Choice(0, {name: values[0], "by": "", "note": validation.note}, ())
    by_part = [candidates(fitted, asked) for fitted, asked in validation.parts]
    together = (np.concatenate(parts) for parts in zip(*by_part, strict=True))
    found = [figures_of(probabilities, data, validation.asked) for probabilities in together]
    by = next(figure for figure in _FALL_BACK[select] if math.isfinite(found[0][figure]))
    sign = 1 if by == "loss" else -1
    ranks = [(sign * figures[by], figures["loss"]) for figures in found]
    position = min(range(len(ranks)), key=ranks.__getitem__)
    lines = ({name: value, **figures} for value, figures in zip(values, found, strict=True))
    table = tuple(as_json(line) for line in lines)
    return Choice(position, {**table[position], "by": by, "note": validation.note}, table)


def figures_of(probabilities: np.ndarray, data: LabelledData, rows: np.ndarray) -> dict[str, float]:
    """Macro 'auroc' and 'balanced_accuracy' (nan = undefined), and the mean cross entropy, 'loss'.

    Args:
        probabilities: [n, C].
        data: The data of a diagnosis task; findings of unknown label do not count.
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
