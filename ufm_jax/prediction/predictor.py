"""Predictions for many rows: batches on the device, one compilation."""

from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from ufm_jax.data.labels.data import LabelledData
from ufm_jax.fed.algorithm import Params, Tree

FIELDS = ("image", "extent")
"""The fields of a row that a prediction reads."""


class Predictor:
    """Applies a function of parameters and a batch to any number of images."""

    def __init__(self, predict: Callable[[Params, Tree], jax.Array], batch_size: int) -> None:
        """Compiles nothing yet.

        Args:
            predict: ``(params, batch) -> [B, ...]``, such as ``Objective.predict``.
            batch_size: B; the last batch is filled up, so that one shape serves all.
        """
        self._predict, self.batch_size = jax.jit(predict), batch_size

    def __call__(self, params: Params, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Predictions [n, ...] for at most ``batch_size`` images.

        Args:
            params: The model's parameters.
            batch: 'image' [n, S, S, C] and 'extent' [n, 2]; further fields are not read.

        Raises:
            ValueError: If ``batch`` is empty or too large.
        """
        count = len(batch["image"])
        if not 0 < count <= self.batch_size:
            raise ValueError(f"a batch of {count} images: give 1 to {self.batch_size}")
        places = np.minimum(np.arange(self.batch_size), count - 1)
        filled = {name: batch[name][places] for name in FIELDS}
        return np.asarray(jax.device_get(self._predict(params, filled)))[:count]


def predict_rows(
    predictor: Predictor, params: Params, data: LabelledData, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predictions for rows of a data set, a batch at a time.

    Yields:
        Rows int64 [n] and their predictions [n, ...], in order.
    """
    for begin in range(0, len(rows), predictor.batch_size):
        part = rows[begin : begin + predictor.batch_size]
        yield part, predictor(params, data.store.read(part))
