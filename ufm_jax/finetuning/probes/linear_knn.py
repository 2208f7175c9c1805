"""Probes: what the features of a frozen encoder are worth.

The features are those that the classifier's head sees, of whole pictures as evaluation sees them.
A linear probe is a logistic regression on them, and becomes the classifier's head; a k-nearest-
neighbours probe asks the most similar training images. The one hyperparameter of each is chosen on
the validation split or, without one, by cross-validation. Test images are never looked at.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np

from ufm_jax.config.finetuning import FinetuneConfig, NetworkConfig
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.probes.neighbours import vote
from ufm_jax.evaluation.probes.regression import Head, Kind, fit_heads
from ufm_jax.fed.algorithm import Params, Tree
from ufm_jax.finetuning.probes.hyperparameter import (
    Record,
    choose_value,
    tells_apart,
    validation_of,
)
from ufm_jax.models.classifier import Classifier
from ufm_jax.objectives.views import patches_of, plain_views
from ufm_jax.prediction.predictor import Predictor, predict_rows

_log = logging.getLogger(__name__)

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
"""Inverse strengths of regularisation, C, that a linear probe chooses from."""

NEIGHBOURS = (1, 5, 10, 20, 50)
"""Numbers of neighbours, k, that a k-nearest-neighbours probe chooses from."""

DEFAULT_STRENGTH, DEFAULT_NEIGHBOURS = 1.0, 20
"""The values that are taken if nothing is chosen."""


@dataclass(frozen=True)
class ProbeResult:
    """A fitted probe: either parameters or a function gives its probabilities.

    Attributes:
        params: The classifier's parameters, with a linear probe in its head; else None.
        probabilities: ``rows [n] -> float64 [n, C]`` by nearest neighbours; else None.
        chosen: The value of 'C' or 'k', and what it was chosen by; see ``hyperparameter.Choice``.
        table: The figures of all candidates.
    """

    params: Params | None
    probabilities: Callable[[np.ndarray], np.ndarray] | None
    chosen: Record
    table: tuple[Record, ...]


def linear_probe(
    network: Classifier,
    params: Params,
    data: LabelledData,
    rows: np.ndarray,
    config: FinetuneConfig,
) -> ProbeResult:
    """Fits a logistic regression to features, and folds it into the classifier's head.

    Everything else stays as it is, the norm before the head too, which is fresh if ``pool='mean'``.
    ``config.evaluation.mirror`` concerns predictions; the fit is to the pictures as they are.

    Args:
        network: The classifier.
        params: Its parameters; the head's are not read.
        data: The data of a diagnosis task.
        rows: Training rows whose labels may be used.
        config: Views, batch size, class weights, and the figure that C is chosen by.

    Raises:
        ConfigError: If the training rows show one class only, or ``config.model.dtype`` is not
            float32.
    """
    if config.model.dtype != "float32":
        raise ConfigError(
            f"config.model.dtype={config.model.dtype!r}: it would round the regression that "
            "method='linear_probe' puts into the head; set 'float32'"
        )
    _check_classes(data, rows)
    kind: Kind = "multi" if data.task.kind == "multi" else "single"
    select = config.evaluation.select
    validation = validation_of(data, rows, select)
    bank = _bank(network, params, data, np.union1d(rows, validation.asked), config)

    def fit(fitted: np.ndarray, strengths: Sequence[float]) -> tuple[Head, ...]:
        balance = config.loss.class_weights
        return fit_heads(bank.of(fitted), data.targets[fitted], kind, strengths, balance)

    def candidates(fitted: np.ndarray, asked: np.ndarray) -> list[np.ndarray]:
        return [head.probabilities(bank.of(asked), kind) for head in fit(fitted, STRENGTHS)]

    strengths = STRENGTHS if validation.parts else (DEFAULT_STRENGTH,)
    position, chosen, table = choose_value("C", strengths, candidates, data, validation, select)
    (head,) = fit(rows, strengths[position : position + 1])
    head_params = {"kernel": head.kernel, "bias": head.bias}
    return ProbeResult({**params, "head": head_params}, None, chosen, table)


def knn_probe(
    network: Classifier,
    params: Params,
    data: LabelledData,
    rows: np.ndarray,
    config: FinetuneConfig,
) -> ProbeResult:
    """Looks up the training images whose features are most similar; see ``neighbours.vote``.

    Groups (patients) never cross splits, so that no neighbour of a validation or test image shows
    the same patient; each image of a training patient has a vote of its own. With
    ``config.evaluation.mirror`` the votes for a picture and its mirror image are averaged.

    Arguments are as in ``linear_probe``, and so is the error of training rows of one class.
    """
    _check_classes(data, rows)
    select = config.evaluation.select
    validation = validation_of(data, rows, select)
    bank = _bank(network, params, data, np.union1d(rows, validation.asked), config)

    def mirrored(asked: np.ndarray) -> list[_Bank]:
        with_mirror = config.evaluation.mirror
        return [_bank(network, params, data, asked, config, mirrored=True)] if with_mirror else []

    def votes(
        views: Sequence[_Bank], fitted: np.ndarray, asked: np.ndarray, tried: Sequence[int]
    ) -> np.ndarray:
        known, targets = bank.of(fitted), data.targets[fitted]
        return np.mean([vote(known, targets, view.of(asked), tried) for view in views], axis=0)

    possible = NEIGHBOURS if validation.parts else (DEFAULT_NEIGHBOURS,)
    counts = sorted({min(count, len(rows)) for count in possible})
    once = [bank, *mirrored(validation.asked)]  # Features are computed once for all folds.

    def candidates(fitted: np.ndarray, asked: np.ndarray) -> list[np.ndarray]:
        return list(votes(once, fitted, asked, counts))

    position, chosen, table = choose_value("k", counts, candidates, data, validation, select)

    def probabilities(asked: np.ndarray) -> np.ndarray:
        views = [_bank(network, params, data, asked, config), *mirrored(asked)]
        return votes(views, rows, asked, counts[position : position + 1])[0]

    return ProbeResult(None, probabilities, chosen, table)


class _Bank(NamedTuple):
    """Features [n, D] of rows [n], which ascend."""

    rows: np.ndarray
    features: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The features of some of the rows."""
        return self.features[np.searchsorted(self.rows, rows)]


def _bank(
    network: Classifier,
    params: Params,
    data: LabelledData,
    rows: np.ndarray,
    config: FinetuneConfig,
    mirrored: bool = False,
) -> _Bank:
    """Computes the features of each row once; arguments as in ``features``."""
    rows = np.unique(rows)
    return _Bank(rows, features(network, params, data, rows, config, mirrored=mirrored))


def features(
    network: Classifier,
    params: Params,
    data: LabelledData,
    rows: np.ndarray,
    config: FinetuneConfig,
    *,
    mirrored: bool = False,
) -> np.ndarray:
    """The features that the head sees, of whole pictures, float32 [n, D].

    One program serves all calls that differ in parameters, data and rows alone.

    Args:
        network: The classifier.
        params: Its parameters; the head's are not read.
        data: Holds the images.
        rows: [n].
        config: Side of the views, patches, channels and batch size.
        mirrored: Whether the pictures are mirrored, left to right.

    Raises:
        ConfigError: If a feature is not finite; names the image.
    """
    size = config.evaluation.batch_size
    predictor = _feature_predictor(network, config.model, size, mirrored)
    parts = [np.zeros((0, network.size.width), np.float32)]
    for part, values in predict_rows(predictor, params, data, rows):
        bad = ~np.isfinite(values).all(1)
        if bad.any():
            raise ConfigError(
                f"{data.names[part[bad.argmax()]]}: its feature is not finite; look at the "
                f"picture, and at config.start.weights={config.start.weights!r}"
            )
        parts.append(values)
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _feature_predictor(
    network: Classifier, model: NetworkConfig, batch_size: int, mirrored: bool
) -> Predictor:
    """Computes features; it is kept, so that training and validation share one program."""

    def compute(params: Params, batch: Tree) -> jax.Array:
        views = plain_views(batch, model.image_size)
        patches = patches_of(views[:, :, ::-1] if mirrored else views, model)
        pooled: jax.Array = network.apply(  # type: ignore[assignment]
            {"params": params}, patches, method="features"
        )
        return pooled.astype("float32")

    return Predictor(compute, batch_size)


def _check_classes(data: LabelledData, rows: np.ndarray) -> None:
    """Refuses training rows that show a single class, and warns of classes that are missing."""
    targets, classes = data.targets[rows], data.task.classes
    has = (targets == 1).any(0)
    if not tells_apart(targets):
        shown = ", ".join(name for name, any_has in zip(classes, has, strict=True) if any_has)
        raise ConfigError(
            f"the {len(rows)} training images that a probe may use all show the same: "
            f"{shown or 'no class'}; raise config.label_fraction, or split otherwise"
        )
    missing = [name for name, any_has in zip(classes, has, strict=True) if not any_has]
    if missing:
        _log.warning("no training image shows %s: the probe cannot find it", ", ".join(missing))
