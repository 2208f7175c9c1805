"""Converts whole models between our parameters and PyTorch's state dicts."""

import numpy as np

from ufm_jax.interop.architecture import Architecture, describe
from ufm_jax.interop.resample import resample_kernel, resample_position
from ufm_jax.interop.torch_names import Params, State, fixed_position, from_torch, to_torch
from ufm_jax.interop.torch_rules import classifier_rules, encoder_rules, mae_rules

_BESIDE_THE_ENCODER = ("decoder_", "mask_token", "head.", "fc_norm.")


def params_from_torch(state: State, architecture: Architecture) -> Params:
    """Our parameters of a state whose architecture ``describe`` gives.

    Returns:
        Nested parameters, float32, blocks unrolled. An encoder alone is under ``encoder``.

    Raises:
        ValueError: If parameters are missing or unexpected; all are listed.
    """
    depth, learned = architecture.depth, architecture.learned_position
    if architecture.decoder is not None:
        rules = mae_rules(depth, decoder_depth=architecture.decoder[1])
    elif architecture.pool is not None:
        rules = classifier_rules(depth, architecture.pool, learned)
    else:
        rules = encoder_rules(depth, "norm.weight" in state, learned)
    return from_torch(state, rules, architecture.grid)


def params_to_torch(params: Params, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The PyTorch state of our MAE, classifier or encoder, which are told apart by their names.

    Args:
        params: Nested parameters, blocks unrolled. An encoder alone is under ``encoder``.
        grid: Patches down and across, for a fixed position embedding, which we do not store.

    Raises:
        ValueError: If this is another model, or parameters are missing or unexpected.
    """
    encoder = params.get("encoder", {})
    if "kernel" not in encoder.get("patch_embed", {}):
        raise ValueError(
            f"no encoder/patch_embed/kernel in {sorted(params)}: give parameters of a model of ours"
        )
    depth, learned = _depth(params, "encoder"), "pos_embed" in encoder
    if "mask_token" in params.get("decoder", {}):
        rules = mae_rules(depth, _depth(params, "decoder"))
    elif set(params) == {"encoder"}:
        rules = encoder_rules(depth, "norm" in encoder, learned)
    elif "decoder" in params:
        raise ValueError(
            "a segmenter's decoder has no counterpart in PyTorch: convert the encoder alone"
        )
    else:
        rules = classifier_rules(depth, "mean" if "norm" in params else "class", learned)
    return to_torch(params, rules, grid, patch_of(encoder["patch_embed"]["kernel"])[0])


def _depth(params: Params, part: str) -> int:
    blocks = params.get(part, {}).get("blocks", {})
    if "block" in blocks:
        raise ValueError(
            f"{part}/blocks: layers are stacked; call models.vit.unstack_layers(params) first"
        )
    return len(blocks)


def patch_of(kernel: np.ndarray) -> tuple[int, int]:
    """Side and channels of a patch, from our kernel [P * P * C, D]; C is 1 or 3.

    At most one C fits, since three times a square is not a square.
    """
    for channels in (1, 3):
        side = round((len(kernel) / channels) ** 0.5)
        if side * side * channels == len(kernel):
            return side, channels
    raise ValueError(
        f"encoder/patch_embed/kernel: {len(kernel)} values a patch do not make a square of 1 or 3 "
        "channels"
    )


def encoder_alone(state: State) -> tuple[dict[str, np.ndarray], list[str]]:
    """A state without its decoder or head, and the names that were left out."""
    dropped = [name for name in state if name.startswith(_BESIDE_THE_ENCODER)]
    return {name: state[name] for name in state if name not in dropped}, dropped


def resized(
    state: State,
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    patch_size: int,
    antialias: bool = True,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """A state for images or patches of another size.

    Args:
        state: Arrays by PyTorch name.
        grid: Patches down and across of ``state``.
        new_grid: Patches down and across of the result.
        patch_size: Side of a patch of the result, pixels.
        antialias: See ``resample_position``.

    Returns:
        The state, and a line on each change.

    Raises:
        ValueError: If the patch size of an autoencoder would change, whose decoder predicts the
            pixels of a patch.
    """
    architecture = describe(state, grid)
    result, notes = dict(state), []
    if patch_size != architecture.patch_size:
        if architecture.kind == "mae":
            raise ValueError(
                f"the decoder predicts patches of {architecture.patch_size} pixels and cannot be "
                f"resampled to {patch_size}: convert the encoder alone"
            )
        name = "patch_embed.proj.weight"
        result[name] = resample_kernel(state[name], patch_size)
        notes.append(
            f"{name}: {architecture.patch_size} to {patch_size} pixels by pseudo-inverse resize"
        )
    if new_grid != grid:
        line = f"from {grid[0]} x {grid[1]} to {new_grid[0]} x {new_grid[1]} patches"
        if architecture.kind == "mae":
            for name in ("pos_embed", "decoder_pos_embed"):
                result[name] = fixed_position(state[name].shape[-1], new_grid)
            notes.append(f"fixed position embeddings computed anew {line}")
        else:
            stored = state["pos_embed"]
            if not architecture.learned_position:
                stored = fixed_position(architecture.width, grid)
            result["pos_embed"] = resample_position(stored, grid, new_grid, antialias)
            way = "antialiased, as timm" if antialias else "not antialiased, as MAE"
            notes.append(
                f"pos_embed: resampled {line}, bicubic, {way}; the model that takes it needs "
                "learned_position=True"
            )
    return result, notes
