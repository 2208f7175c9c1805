"""Logistic regressions on standardised features, written as the head of a classifier."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

_log = logging.getLogger(__name__)

Kind = Literal["single", "multi"]
"""Whether classes exclude each other."""

ABSENT_LOGIT = -30.0
"""Logit of a class that no training row has. The others average 0, so that one of them is at least
0 and the absent class's probability at most exp(-30), a number above 0."""

_LEAST_SPREAD = 1e-4
"""Features that vary by less than this share of the features' size are left out: a head in float32
would tell rounding errors apart by them."""

_ITERATIONS = 2000
_TOLERANCE = 1e-6


class Head(NamedTuple):
    """A linear head, ``features @ kernel + bias``.

    Attributes:
        kernel: float32 [D, C].
        bias: float32 [C].
    """

    kernel: np.ndarray
    bias: np.ndarray

    def probabilities(self, features: np.ndarray, kind: Kind) -> np.ndarray:
        """float64 [n, C] of features [n, D]: softmax, or a sigmoid for each finding."""
        logits = features.astype(np.float64) @ self.kernel + self.bias
        return expit(logits) if kind == "multi" else softmax(logits, axis=1)


class _Linear(NamedTuple):
    """Logits of P classes, of average 0: ``inputs @ weights + offsets``; float64 [D, P] and [P]."""

    weights: np.ndarray
    offsets: np.ndarray


class _Standard(NamedTuple):
    """``(features - mean) / scale``; float64 [D] each, scale inf for features left out."""

    mean: np.ndarray
    scale: np.ndarray


def fit_heads(
    features: np.ndarray,
    targets: np.ndarray,
    kind: Kind,
    strengths: Sequence[float],
    balance: float,
) -> tuple[Head, ...]:
    """A head for each strength of regularisation.

    Exclusive classes have one multinomial regression over the classes that occur; each finding has
    a regression of its own on the rows where it is known. The penalty is ``|W|^2 / (2 C)`` beside
    the sum of the rows' losses, on standardised features.

    Args:
        features: float [n, D].
        targets: [n, C], 1 = has it, 0 = has not, nan = unknown. Two classes ('single'), or both
            values of one finding ('multi'), must occur.
        kind: Whether classes exclude each other.
        strengths: Values of C, increasing: each fit starts from the one before.
        balance: Power of the weights that make up for unequal class frequencies; 0 for none, 1 for
            scikit-learn's 'balanced'.
    """
    wide = features.astype(np.float64)
    spread, floor = wide.std(0), _LEAST_SPREAD * np.sqrt(np.square(wide).mean())
    standard = _Standard(wide.mean(0), np.where(spread > floor, spread, np.inf))
    inputs = (wide - standard.mean) / standard.scale
    fit = _exclusive if kind == "single" else _findings
    # Threads gain nothing for such small products, cost much on busy cores, and change rounding.
    with threadpool_limits(limits=1, user_api="blas"):
        return tuple(_fold(found, standard) for found in fit(inputs, targets, strengths, balance))


def _fold(fit: _Linear, standard: _Standard) -> Head:
    """The head that does on features what ``fit`` does on standardised ones."""
    kernel = fit.weights / standard.scale[:, None]
    bias = fit.offsets - standard.mean @ kernel
    return Head(kernel.astype(np.float32), bias.astype(np.float32))


def _exclusive(
    inputs: np.ndarray, targets: np.ndarray, strengths: Sequence[float], balance: float
) -> list[_Linear]:
    """One regression over the classes that occur; the others get ``ABSENT_LOGIT``."""
    present, numbers = np.unique(targets.argmax(1), return_inverse=True)
    weights = np.zeros((len(strengths), inputs.shape[1], targets.shape[1]))
    offsets = np.full((len(strengths), targets.shape[1]), ABSENT_LOGIT)
    for s, fit in enumerate(_regress(inputs, numbers, strengths, balance)):
        weights[s][:, present], offsets[s, present] = fit
    return [_Linear(*fit) for fit in zip(weights, offsets, strict=True)]


def _findings(
    inputs: np.ndarray, targets: np.ndarray, strengths: Sequence[float], balance: float
) -> list[_Linear]:
    """A regression for each finding.

    A finding that all rows with a known label have, or that all lack, gets the logit of that answer
    for any image; one that is unknown everywhere gets 0, a probability of one half.
    """
    weights = np.zeros((len(strengths), inputs.shape[1], targets.shape[1]))
    offsets = np.zeros((len(strengths), targets.shape[1]))
    for c, column in enumerate(targets.T):
        known = ~np.isnan(column)
        has = column[known].astype(np.int64)
        if len(np.unique(has)) == 2:
            for s, fit in enumerate(_regress(inputs[known], has, strengths, balance)):
                weights[s, :, c] = fit.weights[:, 1] - fit.weights[:, 0]
                offsets[s, c] = fit.offsets[1] - fit.offsets[0]
        elif len(has):
            offsets[:, c] = -ABSENT_LOGIT if has[0] else ABSENT_LOGIT
    return [_Linear(*fit) for fit in zip(weights, offsets, strict=True)]


def _regress(
    inputs: np.ndarray, numbers: np.ndarray, strengths: Sequence[float], balance: float
) -> Iterator[_Linear]:
    """Multinomial regressions of class numbers 0..P-1, all of which occur; P = 2 is the binary one.

    Args:
        inputs: float64 [n, D], standardised.
        numbers: int [n].
        strengths: Values of C.
        balance: Power of the class weights, which average 1 over the rows.
    """
    counts = np.bincount(numbers)
    weights = (1 / counts)[numbers] ** balance
    regression = LogisticRegression(tol=_TOLERANCE, max_iter=_ITERATIONS, warm_start=True)
    for strength in strengths:
        regression.set_params(C=strength)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ConvergenceWarning)
            regression.fit(inputs, numbers, sample_weight=weights / weights.mean())
        if any(issubclass(warning.category, ConvergenceWarning) for warning in said):
            _log.warning(
                "the regression with C=%g stopped after %d iterations, before it converged",
                strength,
                _ITERATIONS,
            )
        kernel, bias = regression.coef_.T, regression.intercept_
        if len(counts) == 2:
            # softmax(-z / 2, z / 2) is sigmoid(z).
            kernel, bias = kernel * [[-0.5, 0.5]], bias * [-0.5, 0.5]
        yield _Linear(kernel - kernel.mean(1, keepdims=True), bias - bias.mean())
