"""Checks of the probabilities, labels and targets that an evaluation is given."""

import numpy as np

_SUM_TOLERANCE = 1e-3
"""How far the sum of exclusive probabilities may be from 1: float16 softmaxes pass."""


def check_probabilities(
    probabilities: np.ndarray, classes: tuple[str, ...], *, exclusive: bool = True
) -> np.ndarray:
    """A model's probabilities as float64 [R, C]; rows of ``exclusive`` classes sum to 1.

    Raises:
        ValueError: If shape or values are impossible; names the first bad row.
    """
    if len(set(classes)) != len(classes) or (exclusive and len(classes) < 2) or not classes:
        raise ValueError(
            f"classes {classes}: give each one once, at least two that exclude another"
        )
    found = np.asarray(probabilities, np.float64)
    if found.ndim != 2 or found.shape[1] != len(classes) or not len(found):
        raise ValueError(
            f"probabilities of shape {found.shape}: [R, {len(classes)}] with R >= 1 is needed, a "
            f"column for each of {', '.join(classes)}"
        )
    bad = ~((found >= 0) & (found <= 1)).all(1)
    if exclusive:
        bad |= ~(np.abs(found.sum(1) - 1) <= _SUM_TOLERANCE)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        rule = "in [0, 1] with sum 1" if exclusive else "in [0, 1]"
        raise ValueError(
            f"probabilities of row {row} are {found[row].tolist()} ({int(bad.sum())} bad rows): "
            f"they must be {rule}; apply softmax or sigmoid to logits once"
        )
    return found


def check_labels(labels: np.ndarray, rows: int, classes: tuple[str, ...]) -> np.ndarray:
    """Class numbers as int64 [R].

    Raises:
        ValueError: If there are not R of them, or one is not the number of a class (-1, an unknown
            label, is not either).
    """
    found = np.asarray(labels)
    if found.shape != (rows,):
        raise ValueError(f"labels of shape {found.shape} for {rows} rows of probabilities")
    bad = ~np.isin(found, np.arange(len(classes)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"label {found[row]} of row {row} is not in 0..{len(classes) - 1} ({int(bad.sum())} "
            "rows are bad): leave rows of unknown label out"
        )
    return found.astype(np.int64)


def check_targets(targets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Findings as float64 [R, C], 1, 0 or nan = unknown.

    Raises:
        ValueError: If the shape is not that of the probabilities, or it holds another value.
    """
    found = np.asarray(targets, np.float64)
    if found.shape != shape:
        raise ValueError(f"targets of shape {found.shape} for probabilities of shape {shape}")
    bad = ~(np.isnan(found) | np.isin(found, (0, 1)))
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        raise ValueError(
            f"target {found[row, column]} of row {row}, finding {column}: use 1 (has it), 0 (has "
            "not) or nan (unknown)"
        )
    return found
