"""A masked autoencoder small enough to compile in a second, with inputs and parameters."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from ufm_jax.models.execution import Execution
from ufm_jax.models.mae import MAE
from ufm_jax.models.sizes import EncoderSize

BATCH, GRID, PATCH_FEATURES = 3, (4, 3), 12


class Inputs(NamedTuple):
    """Arguments of MAE: patches [B, N, F], keep_ids [B, Nk], restore_ids [B, N]."""

    patches: np.ndarray
    keep_ids: np.ndarray
    restore_ids: np.ndarray


@pytest.fixture(scope="session")
def small_mae():
    """Makes the model, computed as ``options`` say: of 4 x 3 patches, of which 3 are kept."""

    def make(**options):
        size = EncoderSize(width=16, depth=2, heads=2)
        return MAE(size, GRID, 8, 1, 2, Execution(**options))

    return make


@pytest.fixture(scope="session")
def inputs():
    rng = np.random.Generator(np.random.Philox(1))
    count = GRID[0] * GRID[1]
    order = np.argsort(rng.random((BATCH, count)), axis=1)
    patches = rng.standard_normal((BATCH, count, PATCH_FEATURES), np.float32)
    return Inputs(patches, order[:, : count // 4], np.argsort(order, axis=1))


@pytest.fixture(scope="session")
def draw_params():
    """Draws parameters of a model that are all away from their trivial start, 0 or 1."""

    def draw(model, *arguments):
        shapes = jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]
        rng = np.random.Generator(np.random.Philox(0))
        return jax.tree.map(lambda a: 0.3 * rng.standard_normal(a.shape, np.float32), shapes)

    return draw


@pytest.fixture(scope="session")
def params(small_mae, inputs, draw_params):
    return draw_params(small_mae(), *inputs)
