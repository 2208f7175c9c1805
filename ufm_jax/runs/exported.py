"""Exported parameters of ours, read from a run's folder or from the export itself."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ufm_jax.errors import RunError
from ufm_jax.fed.algorithm import Params
from ufm_jax.interop.torch_names import flatten
from ufm_jax.interop.weights_file import check_finite
from ufm_jax.models.vit import unstack_layers
from ufm_jax.runs.checkpoint import load_params, sums_beside
from ufm_jax.runs.folder import CONFIG_FILE, has_checkpoint
from ufm_jax.runs.stored import read_as, typed


class Weights(NamedTuple):
    """The parameters that a folder holds.

    Attributes:
        folder: The folder of the parameters themselves.
        params: Arrays on the host, blocks unrolled.
        grid: Patches down and across, as the run was configured or as a learned position embedding
            of a square image tells; None if neither does.
    """

    folder: Path
    params: Params
    grid: tuple[int, int] | None


def read_ours(folder: Path) -> Weights:
    """Reads parameters of ours.

    Args:
        folder: A run's folder, or the folder of its exported ``model``.

    Raises:
        RunError: If it is neither, the run has not exported a model yet, or the model is damaged.
        DataError: If it holds numbers that are not finite.
    """
    inner = folder / "model"
    place = inner if inner.is_dir() else folder
    if not ((place / "_CHECKPOINT_METADATA").is_file() or sums_beside(place).exists()):
        if has_checkpoint(folder):
            raise RunError(f"{folder}: this run has not finished; go on with it first")
        raise RunError(f"{folder}: neither a run's folder nor one of exported parameters")
    params = jax.tree.map(np.asarray, unstack_layers(load_params(place)))
    check_finite(place, flatten(params))
    return Weights(place, params, _configured_grid(place.parent) or _embedded_grid(params))


def _configured_grid(folder: Path) -> tuple[int, int] | None:
    path = folder / CONFIG_FILE
    if not path.exists():
        return None
    remedy = f"restore it, or give {folder / 'model'} alone, in a folder of its own"
    facts = read_as(dict[str, Any], path, remedy)
    try:
        image, patch = (typed(int, facts[f"config.model.{key}_size"]) for key in ("image", "patch"))
    except (KeyError, ValueError) as error:
        raise RunError(f"{path} is damaged or not a run's ({error}): {remedy}") from error
    return (image // max(patch, 1),) * 2


def _embedded_grid(params: Params) -> tuple[int, int] | None:
    position = params.get("encoder", {}).get("pos_embed")
    return None if position is None else (math.isqrt(position.shape[1] - 1),) * 2
