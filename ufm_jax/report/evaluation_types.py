"""What the report of an evaluation is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ufm_jax.evaluation.evaluation_json import Evaluation


@dataclass(frozen=True)
class EvaluationPicture:
    """An example.

    Attributes:
        title: Its group: 'Confidently wrong', 'Best'.
        caption: Name, truth and prediction in words.
        pixels: uint8 [h, w] or [h, w, 3].
        mask: uint8 [h, w], predicted class numbers, or None.
        reference: uint8 [h, w], true ones, or None.
        heat: float [h, w], what speaks for (above 0) or against a class; None for no map.
    """

    title: str
    caption: str
    pixels: np.ndarray
    mask: np.ndarray | None = None
    reference: np.ndarray | None = None
    heat: np.ndarray | None = None


@dataclass(frozen=True)
class Training:
    """How the model was trained.

    Attributes:
        losses: [R], of each round.
        looks: Rounds done by each look at the validation split.
        scores: The score of each look, nan = undefined.
        score_name: What the score is.
        chosen: Rounds after which the model was taken.
    """

    losses: Sequence[float]
    looks: Sequence[int]
    scores: Sequence[float]
    score_name: str
    chosen: int


@dataclass(frozen=True)
class EvaluationReport:
    """All that the page shows.

    Attributes:
        evaluation: The figures.
        created: Date, as it shall be printed.
        facts: Name and value of what a reader must know of the model and the images.
        training: None where the model was trained elsewhere, or not in rounds.
        measured: Split -> (measured, true), [R] each, nan = none.
        pictures: Examples.
        issues: ``DataIssues.to_json()``.
        config: The resolved configuration.
        versions: Software -> version.
    """

    evaluation: Evaluation
    created: str
    facts: Sequence[tuple[str, str]]
    training: Training | None
    pictures: Sequence[EvaluationPicture]
    issues: Mapping[str, Any]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    measured: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
