"""The start of a training: a new model's parameters with the encoder of another model."""

import math
from typing import Any, NamedTuple

import numpy as np

from ufm_jax.interop.convert import patch_of
from ufm_jax.interop.resample import resample_kernel, resample_position
from ufm_jax.interop.torch_names import Params, fixed_position, flatten

_NOT_NEEDED = ("encoder/norm/scale", "encoder/norm/bias")
"""A mean-pooled classifier and a segmenter take the tokens before the encoder's last norm."""

_KERNEL, _POSITION = "encoder/patch_embed/kernel", "encoder/pos_embed"


class Start(NamedTuple):
    """Parameters to start from.

    Attributes:
        params: Nested, of the new model's structure.
        new: Paths of the parameters that are not trained yet, such as the head's.
        left_out: Paths of the other model's parameters that are not used.
        notes: A line on each array that was resampled.
    """

    params: Params
    new: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def start_from(
    source: Params,
    like: Params,
    grid: tuple[int, int],
    source_grid: tuple[int, int] | None = None,
    antialias: bool = True,
) -> Start:
    """A model's initial parameters with the encoder of another model.

    Args:
        source: Parameters with an ``encoder``, of any of our models; blocks laid out as in
            ``like`` (see ``models.vit.stack_layers``).
        like: The new model's initial parameters, whose head stays.
        grid: The new model's patches down and across.
        source_grid: The source's patches down and across. None if they equal ``grid``, or if images
            were square and the source's position embedding is learned.
        antialias: See ``resample_position``.

    Returns:
        The parameters, and which of them are new. Kernel and position embedding are resampled if
        patches or images differ in size; a learned position embedding may start from a fixed one.

    Raises:
        ValueError: If the encoders differ in names or shapes; all are listed.
    """
    given, wanted = flatten(source), flatten(like)
    trained = {path: array for path, array in given.items() if path.startswith("encoder/")}
    notes: list[str] = []
    if _KERNEL in trained and _KERNEL in wanted:
        trained[_KERNEL], notes = _resized_kernel(trained[_KERNEL], wanted[_KERNEL])
    if _POSITION in wanted:
        width = wanted[_POSITION].shape[-1]
        trained[_POSITION], lines = _resized_position(
            trained.get(_POSITION), width, grid, source_grid, antialias
        )
        notes += lines
    elif source_grid not in (None, grid):
        notes.append(f"fixed position embedding: computed anew for {grid}, not resampled")
    encoder = {path for path in wanted if path.startswith("encoder/")}
    unused = {path for path in _NOT_NEEDED if path in trained and path not in encoder}
    _require_fit({p: a for p, a in trained.items() if p not in unused}, wanted, encoder)
    return Start(
        params=_filled(like, trained),
        new=tuple(sorted(set(wanted) - encoder)),
        left_out=tuple(sorted((set(given) - set(trained)) | unused)),
        notes=tuple(notes),
    )


def _resized_kernel(kernel: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The kernel [P * P * C, D] for patches of the wanted size; unchanged if channels differ."""
    (side, channels), (new_side, new_channels) = patch_of(kernel), patch_of(wanted)
    if side == new_side or channels != new_channels:
        return kernel, []
    width = kernel.shape[1]
    weight = kernel.reshape(side, side, channels, width).transpose(3, 2, 0, 1)
    resampled = resample_kernel(weight, new_side).transpose(2, 3, 1, 0).reshape(-1, width)
    line = f"{_KERNEL}: patches of {side} pixels to {new_side}, pseudo-inverse resize"
    return np.ascontiguousarray(resampled), [line]


def _resized_position(
    stored: np.ndarray | None,
    width: int,
    grid: tuple[int, int],
    source_grid: tuple[int, int] | None,
    antialias: bool,
) -> tuple[np.ndarray, list[str]]:
    """The position embedding [1, 1 + N, D] for a model that learns its own, and notes."""
    if source_grid is None:
        source_grid = grid
        if stored is not None and stored.shape[1] != _tokens(grid):
            source_grid = (math.isqrt(stored.shape[1] - 1),) * 2
    if stored is None:
        stored = fixed_position(width, source_grid)
    if stored.shape[1] != _tokens(source_grid):
        raise ValueError(
            f"{_POSITION}: {stored.shape[1] - 1} patches do not make a {source_grid[0]} x "
            f"{source_grid[1]} grid: give source_grid"
        )
    if source_grid == grid:
        return stored, []
    resampled = resample_position(stored, source_grid, grid, antialias)
    return resampled, [f"{_POSITION}: from grid {source_grid} to {grid}, bicubic"]


def _tokens(grid: tuple[int, int]) -> int:
    return 1 + grid[0] * grid[1]


def _require_fit(
    trained: dict[str, np.ndarray], wanted: dict[str, np.ndarray], encoder: set[str]
) -> None:
    missing = sorted(encoder - set(trained))
    unexpected = sorted(set(trained) - encoder)
    shapes = [
        f"{path} {trained[path].shape} for {wanted[path].shape}"
        for path in sorted(encoder & set(trained))
        if trained[path].shape != wanted[path].shape
    ]
    if missing or unexpected or shapes:
        remedy = "choose the model's size, channels and layout as those of the weights"
        if _POSITION in unexpected:
            remedy += "; a learned position embedding needs learned_position=True"
        raise ValueError(
            f"the encoder does not fit: missing {missing or 'none'}; unexpected "
            f"{unexpected or 'none'}; of another shape {shapes or 'none'}: {remedy}"
        )


def _filled(like: Params, trained: dict[str, np.ndarray], prefix: str = "") -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for key, value in like.items():
        path = f"{prefix}{key}"
        nested = isinstance(value, dict)
        filled[key] = _filled(value, trained, f"{path}/") if nested else trained.get(path, value)
    return filled
