"""What a model says of the R images of a split, beside the truth, in the order of the images."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np

from ufm_jax.evaluation.segmentation import MaskScores


@dataclass(frozen=True)
class _Images:
    """The R images, in fields that both kinds of predictions have.

    Attributes:
        names: [R], the images, each once.
        clients: [R], the client that holds each.
        groups: int64 [R], the groups (patients).
        classes: C names; those of masks without the background.
    """

    names: tuple[str, ...]
    clients: tuple[str, ...]
    groups: np.ndarray
    classes: tuple[str, ...]

    def take(self, rows: np.ndarray) -> Self:
        """The predictions for some rows [n], in their order."""
        whole = ("classes", "unit")
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in whole}
        return replace(self, **{name: _take(part, rows) for name, part in parts.items()})


@dataclass(frozen=True)
class DiagnosisPredictions(_Images):
    """Probabilities of C classes or findings.

    Attributes:
        probabilities: float [R, C].
        labels: int [R], the class of a single-label task, else -1.
        targets: float [R, C], 1 = has the class, 0 = has not, nan = unknown.
        called: bool [R, C], the classes called, one a row in a single-label task; None before
            ``calls.with_calls`` makes the calls.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    called: np.ndarray | None = None

    @property
    def kind(self) -> Literal["single", "multi"]:
        """The kind of the task: one class a row, or any of C findings."""
        return "multi" if (self.labels < 0).all() else "single"

    @property
    def truth(self) -> np.ndarray:
        """The reference, [R, C]."""
        return self.targets

    def calls(self) -> np.ndarray:
        """The classes called, bool [R, C].

        Raises:
            ValueError: If the calls have not been made.
        """
        if self.called is None:
            raise ValueError("predictions without calls: make them with calls.with_calls")
        return self.called


@dataclass(frozen=True)
class SegmentationPredictions(_Images):
    """Scores of masks of C classes, and what was measured on them.

    Attributes:
        scores: [R, C], at the size of the files.
        measured: float64 [R], nan = nothing could be measured; None if nothing is to be measured.
        reference: float64 [R], the true measurement, nan = unknown; None like ``measured``.
        unit: The unit of both, 'mm' or 'degrees'; '' if nothing is to be measured.
    """

    scores: MaskScores
    measured: np.ndarray | None = None
    reference: np.ndarray | None = None
    unit: str = ""

    @property
    def truth(self) -> np.ndarray:
        """The reference's pixels of each class, [R, C]."""
        return self.scores.reference


def _take(part: Any, rows: np.ndarray) -> Any:
    """Some rows of a field of predictions."""
    if isinstance(part, MaskScores):
        return MaskScores(*(getattr(part, f.name)[rows] for f in fields(part)))
    if isinstance(part, tuple):
        return tuple(part[row] for row in rows)
    return None if part is None else part[rows]


Predictions = DiagnosisPredictions | SegmentationPredictions
