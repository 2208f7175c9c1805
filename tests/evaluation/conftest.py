"""Predictions as a model might make them."""

from dataclasses import replace

import numpy as np
import pytest

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.evaluation.predictions import DiagnosisPredictions, SegmentationPredictions
from ufm_jax.evaluation.segmentation import MaskScores, score_masks


@pytest.fixture
def diagnosis():
    """Makes predictions of C classes for R images of patients with two images each."""

    def make(classes=("benign", "malignant"), rows=40, kind="single", seed=0, called=True):
        rng = np.random.default_rng(seed)
        count = len(classes)
        if kind == "multi":
            targets = rng.integers(0, 2, (rows, count)).astype(np.float32)
            logits = 1.5 * targets + rng.normal(size=(rows, count))
            probabilities = 1 / (1 + np.exp(-logits))
            targets[rng.random((rows, count)) < 0.1] = np.nan
            labels = np.full(rows, -1, np.int32)
        else:
            labels = np.arange(rows, dtype=np.int32) % count
            targets = np.eye(count, dtype=np.float32)[labels]
            logits = 1.5 * targets + rng.normal(size=(rows, count))
            probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        drawn = rng.random((rows, count)) < 0.5
        found = DiagnosisPredictions(
            names=tuple(f"site {row % 3}/ünï, {row}.png" for row in range(rows)),
            clients=tuple(f'site "{row % 3}"' for row in range(rows)),
            groups=np.arange(rows) // 2,
            probabilities=probabilities.astype(np.float32),
            labels=labels,
            targets=targets,
            classes=tuple(classes),
        )
        if kind == "single":
            drawn = np.arange(count) == rng.integers(0, count, (rows, 1))
        return replace(found, called=drawn) if called else found

    return make


@pytest.fixture
def segmentation():
    """Makes predictions of masks of C classes, measured in mm or not."""

    def make(classes=("head", "symphysis"), rows=12, seed=0, unit=""):
        rng = np.random.default_rng(seed)
        truths = np.random.default_rng(7)
        scores = []
        for row in range(rows):
            truth = truths.integers(0, 1 + len(classes), (9, 8))
            mask = np.where(rng.random((9, 8)) < 0.8, truth, 0)
            scores.append(score_masks(mask, truth, len(classes), 0.3 if row % 3 else np.nan))
        reference = 100 + 10 * truths.random(rows)
        reference[1] = np.nan
        measured = reference + rng.normal(size=rows)
        measured[rows - 1] = np.nan
        return SegmentationPredictions(
            names=tuple(f"{row}.png" for row in range(rows)),
            clients=("a",) * rows,
            groups=np.arange(rows) // 2,
            scores=MaskScores.stack(scores),
            classes=tuple(classes),
            measured=measured if unit else None,
            reference=reference if unit else None,
            unit=unit,
        )

    return make


@pytest.fixture
def settings():
    """Few resamples."""
    return EvaluationConfig(replicates=50)
