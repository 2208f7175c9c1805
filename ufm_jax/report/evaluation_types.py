"""The facts that the report of an evaluation shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ufm_jax.evaluation.evaluation_json import Evaluation


@dataclass(frozen=True)
class EvaluationPicture:
    """An example.

    Attributes:
        title: The title of its group, such as 'Confidently wrong' or 'Best'.
        caption: Name, truth and prediction in words.
        pixels: uint8 [h, w] or [h, w, 3].
        mask: uint8 [h, w], predicted class numbers, or None.
        reference: uint8 [h, w], true class numbers, or None.
        heat: float [h, w], above 0 where the picture speaks for a class; None without a map.
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
        losses: [R], the loss of each round.
        looks: Rounds done by each look at the validation split.
        scores: The score of each look, nan = undefined.
        score_name: The name of the score.
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
        created: The date, as it shall be printed.
        facts: Names and values of what a reader must know of the model and the images.
        training: None if the model was trained elsewhere, or not in rounds.
        pictures: Examples.
        issues: ``DataIssues.to_json()``.
        config: The resolved configuration.
        versions: Software -> version.
        measured: Split -> (measured, true), [R] each, nan = unknown.
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
