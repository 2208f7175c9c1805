"""Parameters of PyTorch's MAE and timm models by our names, and ours by theirs.

The names are those of facebookresearch/mae, which timm's vision transformers share. Arrays are
numpy on both sides; reading a file is someone else's work. Our side is the unrolled layout
(``models.vit.unstack_layers`` leads there from the scanned one).

Layouts differ in three ways: linear weights are transposed; the patch embedding is a convolution
[D, C, P, P] there and a matrix [P * P * C, D] here, pixels row by row with the channel last; and
a fixed sin-cos position embedding is stored there and computed here, hence checked.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ufm_jax.interop.torch_rules import (
    Pool,
    Rule,
    classifier_rules,
    decoder_rules,
    encoder_rules,
)
from ufm_jax.ops.position import sincos_2d

Params = dict[str, Any]
State = Mapping[str, np.ndarray]

_POSITION_TOLERANCE = 1e-2
"""Lets half-precision files pass; a learned embedding is further away than this."""


def mae_from_torch(state: State, grid: tuple[int, int] | None = None) -> Params:
    """Parameters of ``models.mae.MAE`` from the state of a PyTorch MAE.

    Args:
        state: Arrays by PyTorch name, encoder and decoder.
        grid: Patches down and across; None for a square image.

    Returns:
        Nested parameters, float32, blocks unrolled.

    Raises:
        ValueError: If names are missing or unexpected (all are listed), an array has the wrong
            number of axes, or a position embedding is not the fixed one.
    """
    depth, decoder_depth = count_blocks(state, "blocks"), count_blocks(state, "decoder_blocks")
    rules = encoder_rules(depth, final_norm=True) + decoder_rules(decoder_depth)
    return _from_torch(state, rules, ("pos_embed", "decoder_pos_embed"), grid)


def mae_to_torch(params: Params, grid: tuple[int, int], patch_size: int) -> dict[str, np.ndarray]:
    """Inverse of ``mae_from_torch``.

    Args:
        params: Parameters of ``models.mae.MAE``, blocks unrolled.
        grid: Patches down and across, for the stored position embeddings.
        patch_size: Side of a patch in pixels.

    Raises:
        ValueError: If parameters are missing or unexpected, or ``patch_size`` does not fit.
    """
    depth, decoder_depth = _depth(params, "encoder"), _depth(params, "decoder")
    rules = encoder_rules(depth, final_norm=True) + decoder_rules(decoder_depth)
    state = _to_torch(params, rules, patch_size)
    state["decoder_pos_embed"] = fixed_position(state["decoder_norm.weight"].size, grid)
    return _with_position(state, grid)


def encoder_from_torch(
    state: State,
    grid: tuple[int, int] | None = None,
    learned_position: bool = False,
    final_norm: bool = True,
) -> Params:
    """Parameters of ``models.vit.Encoder`` from an encoder without decoder or head.

    Arguments and errors are those of ``classifier_from_torch``; ``final_norm`` is the encoder's.
    """
    rules = encoder_rules(count_blocks(state, "blocks"), final_norm, learned_position)
    fixed = () if learned_position else ("pos_embed",)
    return _from_torch(state, rules, fixed, grid)["encoder"]


def encoder_to_torch(
    params: Params, grid: tuple[int, int], patch_size: int
) -> dict[str, np.ndarray]:
    """Inverse of ``encoder_from_torch``; arguments as ``mae_to_torch``."""
    whole = {"encoder": params}
    learned_position, final_norm = "pos_embed" in params, "norm" in params
    rules = encoder_rules(_depth(whole, "encoder"), final_norm, learned_position)
    state = _to_torch(whole, rules, patch_size)
    return state if learned_position else _with_position(state, grid)


def classifier_from_torch(
    state: State,
    pool: Pool,
    grid: tuple[int, int] | None = None,
    learned_position: bool = False,
) -> Params:
    """Parameters of ``models.classifier.Classifier`` from a timm or MAE fine-tuning state.

    Args:
        state: Arrays by PyTorch name.
        pool: 'mean' expects ``fc_norm``, 'class' expects ``norm``.
        grid: Patches down and across; None for a square image.
        learned_position: Whether the position embedding is loaded as a parameter, whatever it is;
            otherwise it must be the fixed one.

    Returns:
        Nested parameters, float32, blocks unrolled.

    Raises:
        ValueError: As ``mae_from_torch``.
    """
    rules = classifier_rules(count_blocks(state, "blocks"), pool, learned_position)
    return _from_torch(state, rules, () if learned_position else ("pos_embed",), grid)


def classifier_to_torch(
    params: Params, pool: Pool, grid: tuple[int, int], patch_size: int
) -> dict[str, np.ndarray]:
    """Inverse of ``classifier_from_torch``; arguments as ``mae_to_torch``."""
    learned_position = "pos_embed" in params.get("encoder", {})
    rules = classifier_rules(_depth(params, "encoder"), pool, learned_position)
    state = _to_torch(params, rules, patch_size)
    return state if learned_position else _with_position(state, grid)


def _from_torch(
    state: State, rules: list[Rule], positions: tuple[str, ...], grid: tuple[int, int] | None
) -> Params:
    expected = [rule.torch for rule in rules] + list(positions)
    _require_names(expected, state, "PyTorch state")
    for name in positions:
        _check_position(name, np.asarray(state[name], np.float32), grid)
    params: Params = {}
    for rule in rules:
        *parents, leaf = rule.path
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = _array_from_torch(rule, np.asarray(state[rule.torch], np.float32))
    return params


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
        features, width = array.shape
        if features % patch_size**2:
            raise ValueError(
                f"{'/'.join(rule.path)}: {features} values a patch do not divide into "
                f"{patch_size} x {patch_size} pixels: give the patch_size the model was made with"
            )
        pixels = array.reshape(patch_size, patch_size, features // patch_size**2, width)
        array = pixels.transpose(3, 2, 0, 1)
    elif rule.kind == "linear":
        array = array.T
    return np.ascontiguousarray(array)


def count_blocks(state: State, name: str) -> int:
    """Number of blocks named ``name.0 ..``; holes in the numbering show as missing names."""
    matches = (re.match(rf"{name}\.(\d+)\.", key) for key in state)
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def _depth(params: Params, part: str) -> int:
    blocks = params.get(part, {}).get("blocks", {})
    if "block" in blocks:
        raise ValueError(
            f"{part}/blocks: layers are stacked; call models.vit.unstack_layers(params) first"
        )
    return len(blocks)


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays by path, as 'encoder/norm/scale'."""
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


def _with_position(state: dict[str, np.ndarray], grid: tuple[int, int]) -> dict[str, np.ndarray]:
    return {**state, "pos_embed": fixed_position(state["cls_token"].size, grid)}


def _check_position(name: str, array: np.ndarray, grid: tuple[int, int] | None) -> None:
    if array.ndim != 3 or array.shape[0] != 1:
        raise ValueError(f"{name}: shape {array.shape} is not [1, 1 + patches, channels]")
    patches = array.shape[1] - 1
    side = int(patches**0.5)
    rows, columns = grid or (side, side)
    if rows * columns != patches:
        raise ValueError(f"{name}: {patches} patches are no {rows} x {columns} grid: give `grid`")
    error = np.abs(array - fixed_position(array.shape[2], (rows, columns))).max()
    if not error < _POSITION_TOLERANCE:
        raise ValueError(
            f"{name}: differs from the fixed sin-cos embedding by {error:.3g}. Fine-tuned and "
            "supervised ViTs learn theirs: load those with learned_position=True, into a model "
            "with the same setting; a masked autoencoder's is always fixed"
        )
