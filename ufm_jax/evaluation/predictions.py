"""What a model said of the R rows of a split, beside the truth, in the order of the rows."""

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from ufm_jax.evaluation.segmentation import MaskScores


@dataclass(frozen=True)
class DiagnosisPredictions:
    """Probabilities of C classes or findings.

    Attributes:
        names: [R], the images, each once.
        clients: [R], who holds each.
        groups: int64 [R], the groups (patients).
        probabilities: float [R, C].
        labels: int [R], the class of a single-label task, else -1.
        targets: float [R, C], 1 = has the class, 0 = has not, nan = unknown.
        classes: C names.
        called: bool [R, C], the classes called, of a single-label task one a row; None as long as
            none has been called, see ``calls.call``.
    """

    names: tuple[str, ...]
    clients: tuple[str, ...]
    groups: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...]
    called: np.ndarray | None = None

    @property
    def kind(self) -> Literal["single", "multi"]:
        """Kind of the task: one class a row, or any of C findings."""
        return "multi" if (self.labels < 0).all() else "single"

    @property
    def truth(self) -> np.ndarray:
        """What the reference says, [R, C]."""
        return self.targets

    def calls(self) -> np.ndarray:
        """The classes called, bool [R, C].

        Raises:
            ValueError: If none has been called.
        """
        if self.called is None:
            raise ValueError("predictions without calls: make them with calls.call")
        return self.called

    def take(self, rows: np.ndarray) -> "DiagnosisPredictions":
        """Those of some rows [n], in their order."""
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            clients=tuple(self.clients[row] for row in rows),
            groups=self.groups[rows],
            probabilities=self.probabilities[rows],
            labels=self.labels[rows],
            targets=self.targets[rows],
            called=None if self.called is None else self.called[rows],
        )


@dataclass(frozen=True)
class SegmentationPredictions:
    """Scores of masks of C classes, and what was measured on them.

    Attributes:
        names: [R], the images, each once.
        clients: [R], who holds each.
        groups: int64 [R], the groups (patients).
        scores: [R, C], at the size of the files.
        classes: C names, background not among them.
        measured: float64 [R], nan = nothing could be measured; None where nothing is to be.
        reference: float64 [R], the true measurement, nan = unknown; None where nothing is measured.
        unit: Of both, 'mm' or 'degrees'; '' where nothing is measured.
    """

    names: tuple[str, ...]
    clients: tuple[str, ...]
    groups: np.ndarray
    scores: MaskScores
    classes: tuple[str, ...]
    measured: np.ndarray | None = None
    reference: np.ndarray | None = None
    unit: str = ""

    @property
    def truth(self) -> np.ndarray:
        """What the reference says: the pixels of each class, [R, C]."""
        return self.scores.reference

    def take(self, rows: np.ndarray) -> "SegmentationPredictions":
        """Those of some rows [n], in their order."""
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            clients=tuple(self.clients[row] for row in rows),
            groups=self.groups[rows],
            scores=MaskScores(*(getattr(self.scores, f.name)[rows] for f in fields(MaskScores))),
            measured=None if self.measured is None else self.measured[rows],
            reference=None if self.reference is None else self.reference[rows],
        )


Predictions = DiagnosisPredictions | SegmentationPredictions
