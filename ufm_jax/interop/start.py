"""Where training starts: a new model's parameters, its encoder taken from another."""

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
        new: Paths of those that no training has seen: the head.
        left_out: Paths of the other model's parameters that have no place here.
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
    """Puts one model's encoder into another.

    Args:
        source: Parameters with an ``encoder``, of any of our models; blocks laid out as in
            ``like`` (see ``models.vit.stack_layers``).
        like: The new model's parameters, as initialised: its head stays.
        grid: The new model's patches down and across.
        source_grid: The source's; None where images were square and its position embedding is
            learned, or for ``grid``.
        antialias: See ``resample_position``.

    Returns:
        The parameters, and what of them is new. Kernel and position embedding are resampled where
        patches or images differ in size; a learned position embedding starts from a fixed one.

    Raises:
        ValueError: If the encoders differ in names or shapes; all are listed.
    """
    given, wanted = flatten(source), flatten(like)
    taken = {path: array for path, array in given.items() if path.startswith("encoder/")}
    notes: list[str] = []
    if _KERNEL in taken and _KERNEL in wanted:
        taken[_KERNEL], notes = _resized_kernel(taken[_KERNEL], wanted[_KERNEL])
    if _POSITION in wanted:
        width = wanted[_POSITION].shape[-1]
        taken[_POSITION], lines = _resized_position(
            taken.get(_POSITION), width, grid, source_grid, antialias
        )
        notes += lines
    elif source_grid not in (None, grid):
        notes.append(f"fixed position embedding: computed anew for {grid}, not resampled")
    encoder = {path for path in wanted if path.startswith("encoder/")}
    unused = {path for path in _NOT_NEEDED if path in taken and path not in encoder}
    _require_fit({p: a for p, a in taken.items() if p not in unused}, wanted, encoder)
    return Start(
        params=_filled(like, taken),
        new=tuple(sorted(set(wanted) - encoder)),
        left_out=tuple(sorted((set(given) - set(taken)) | unused)),
        notes=tuple(notes),
    )


def _resized_kernel(kernel: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Kernel [P * P * C, D] for patches of another size, if only that differs."""
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
    """Position embedding [1, 1 + N, D] for a model that learns its own."""
    if source_grid is None:
        source_grid = grid
        if stored is not None and stored.shape[1] != _tokens(grid):
            source_grid = (math.isqrt(stored.shape[1] - 1),) * 2
    if stored is None:
        stored = fixed_position(width, source_grid)
    if stored.shape[1] != _tokens(source_grid):
        raise ValueError(
            f"{_POSITION}: {stored.shape[1] - 1} patches are no {source_grid[0]} x "
            f"{source_grid[1]} grid: give source_grid"
        )
    if source_grid == grid:
        return stored, []
    resampled = resample_position(stored, source_grid, grid, antialias)
    return resampled, [f"{_POSITION}: from grid {source_grid} to {grid}, bicubic"]


def _tokens(grid: tuple[int, int]) -> int:
    return 1 + grid[0] * grid[1]


def _require_fit(
    taken: dict[str, np.ndarray], wanted: dict[str, np.ndarray], encoder: set[str]
) -> None:
    missing = sorted(encoder - set(taken))
    unexpected = sorted(set(taken) - encoder)
    shapes = [
        f"{path} {taken[path].shape} for {wanted[path].shape}"
        for path in sorted(encoder & set(taken))
        if taken[path].shape != wanted[path].shape
    ]
    if missing or unexpected or shapes:
        remedy = "choose the model's size, channels and layout as those of the weights"
        if _POSITION in unexpected:
            remedy += "; a learned position embedding needs learned_position=True"
        raise ValueError(
            f"the encoder does not fit: missing {missing or 'none'}; unexpected "
            f"{unexpected or 'none'}; of another shape {shapes or 'none'}: {remedy}"
        )


def _filled(like: Params, taken: dict[str, np.ndarray], prefix: str = "") -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for key, value in like.items():
        path = f"{prefix}{key}"
        nested = isinstance(value, dict)
        filled[key] = _filled(value, taken, f"{path}/") if nested else taken.get(path, value)
    return filled
