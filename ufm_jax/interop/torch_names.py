"""Converts names and layouts of parameters between PyTorch's MAE and timm models and ours.

The names are those of facebookresearch/mae, which timm's vision transformers share. Arrays are
numpy on both sides. Our side is the unrolled layout; ``models.vit.unstack_layers`` turns the
scanned one into it.

Layouts differ in three ways. Linear weights are transposed. The patch embedding is a convolution
[D, C, P, P] there and a matrix [P * P * C, D] here, pixels row by row with the channel last. A
fixed sin-cos position embedding is stored there; here it is computed, and hence checked.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ufm_jax.interop.torch_rules import Rule
from ufm_jax.ops.position import sincos_2d

Params = dict[str, Any]
State = Mapping[str, np.ndarray]

_POSITION_TOLERANCE = 1e-2
"""Half-precision files are closer to the fixed embedding than this, and learned ones are not."""


def from_torch(state: State, rules: list[Rule], grid: tuple[int, int] | None = None) -> Params:
    """Our parameters from a PyTorch state.

    Args:
        state: Arrays by PyTorch name.
        rules: Those of the model, from ``torch_rules``.
        grid: Patches down and across; None for a square image.

    Returns:
        Nested parameters, float32, blocks unrolled.

    Raises:
        ValueError: If names are missing or unexpected (all are listed), an array has the wrong
            number of axes, or a position embedding that should be fixed is not.
    """
    positions = _fixed_positions(rules)
    _require_names([*(rule.torch for rule in rules), *positions], state, "PyTorch state")
    for name in positions:
        _check_position(name, np.asarray(state[name], np.float32), grid)
    params: Params = {}
    for rule in rules:
        array = _array_from_torch(rule, np.asarray(state[rule.torch], np.float32))
        put(params, rule.path, array)
    return params


def to_torch(
    params: Params, rules: list[Rule], grid: tuple[int, int], patch_size: int
) -> dict[str, np.ndarray]:
    """The PyTorch state of our parameters: the inverse of ``from_torch``.

    Args:
        params: Nested parameters, blocks unrolled.
        rules: Those of the model, from ``torch_rules``.
        grid: Patches down and across, for the position embeddings that are stored there alone.
        patch_size: Side of a patch in pixels.

    Raises:
        ValueError: If parameters are missing or unexpected.
    """
    leaves = flatten(params)
    _require_names(["/".join(rule.path) for rule in rules], leaves, "parameters")
    state = {
        rule.torch: _array_to_torch(rule, leaves["/".join(rule.path)], patch_size) for rule in rules
    }
    for name, token in _fixed_positions(rules).items():
        state[name] = fixed_position(state[token].size, grid)
    return state


def _fixed_positions(rules: list[Rule]) -> dict[str, str]:
    """Position embeddings that are fixed and not parameters, each with a token of its width."""
    names = {rule.torch for rule in rules}
    both = {"pos_embed": "cls_token", "decoder_pos_embed": "mask_token"}
    return {name: token for name, token in both.items() if token in names and name not in names}


def _array_from_torch(rule: Rule, array: np.ndarray) -> np.ndarray:
    axes = {"same": array.ndim, "linear": 2, "patches": 4}[rule.kind]
    if array.ndim != axes:
        raise ValueError(f"{rule.torch}: shape {array.shape}, but it should have {axes} axes")
    if rule.kind == "patches":
        array = array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    elif rule.kind == "linear":
        array = array.T
    return np.ascontiguousarray(array)


def _to_torch(params: Params, rules: list[Rule], patch_size: int) -> dict[str, np.ndarray]:
    leaves = flatten(params)
    _require_names(["/".join(rule.path) for rule in rules], leaves, "parameters")
    return {
        rule.torch: _array_to_torch(rule, leaves["/".join(rule.path)], patch_size) for rule in rules
    }


def _array_to_torch(rule: Rule, array: np.ndarray, patch_size: int) -> np.ndarray:
    if rule.kind == "patches":
        pixels = array.reshape(patch_size, patch_size, -1, array.shape[-1])
        array = pixels.transpose(3, 2, 0, 1)
    elif rule.kind == "linear":
        array = array.T
    return np.ascontiguousarray(array)


def put(params: Params, path: Sequence[str], array: np.ndarray) -> None:
    """Adds an array to nested parameters."""
    *parents, leaf = path
    for parent in parents:
        params = params.setdefault(parent, {})
    params[leaf] = array


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays by path, such as 'encoder/norm/scale'."""
    leaves: dict[str, np.ndarray] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}/")
        else:
            leaves[prefix + key] = np.asarray(value)
    return leaves


def _require_names(expected: Collection[str], given: Collection[str], what: str) -> None:
    missing = sorted(set(expected) - set(given))
    unexpected = sorted(set(given) - set(expected))
    if missing or unexpected:
        raise ValueError(
            f"{what} do not fit the model: missing {missing or 'none'}; "
            f"unexpected {unexpected or 'none'}. Choose the model they were saved from, and "
            "take out what does not belong to it"
        )


def fixed_position(width: int, grid: tuple[int, int]) -> np.ndarray:
    """The fixed position embedding [1, 1 + N, D] as PyTorch's models store it."""
    return sincos_2d(width, *grid, cls_token=True)[None]


def _check_position(name: str, array: np.ndarray, grid: tuple[int, int] | None) -> None:
    if array.ndim != 3 or array.shape[0] != 1:
        raise ValueError(f"{name}: shape {array.shape} is not [1, 1 + patches, channels]")
    patches = array.shape[1] - 1
    side = int(patches**0.5)
    rows, columns = grid or (side, side)
    if rows * columns != patches:
        raise ValueError(
            f"{name}: {patches} patches do not make a {rows} x {columns} grid: give `grid`"
        )
    error = np.abs(array - fixed_position(array.shape[2], (rows, columns))).max()
    if not error < _POSITION_TOLERANCE:
        raise ValueError(
            f"{name}: differs from the fixed sin-cos embedding by {error:.3g}. Fine-tuned and "
            "supervised ViTs learn theirs: load those with learned_position=True, into a model "
            "with the same setting; a masked autoencoder's is always fixed"
        )
