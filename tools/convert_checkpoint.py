"""Converts parameters between PyTorch's files and ours.

    python -m tools.convert_checkpoint mae_pretrain_vit_base.pth weights/mae_b --to=ours
    python -m tools.convert_checkpoint runs/mine vit.safetensors --to=torch --encoder_only

Reads .pth and .safetensors of UltraFedFM, MAE and timm without running code in them, and folders
of ours (a run's, or its ``model``). Writes parameters alone, as a folder of ours or a .safetensors
file. See docs/weights.md.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ufm_jax.config.command import path_argument
from ufm_jax.door import enter, say
from ufm_jax.errors import ConfigError
from ufm_jax.interop.architecture import Architecture, describe
from ufm_jax.interop.convert import (
    encoder_alone,
    params_from_torch,
    params_to_torch,
    patch_of,
    resized,
)
from ufm_jax.interop.torch_names import flatten
from ufm_jax.interop.weights_file import SUFFIXES, check_writable, read_weights, write_weights
from ufm_jax.models.sizes import SIZES
from ufm_jax.runs.checkpoint import export_params, load_params
from ufm_jax.runs.exported import read_ours

Grid = tuple[int, int]


class Source(NamedTuple):
    """What was read: a state by PyTorch name, its patches down and across, lines on the file."""

    state: dict[str, np.ndarray]
    grid: Grid
    lines: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses arguments and converts.

    Raises:
        ConfigError: If the input cannot be converted as asked.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("input", type=path_argument, help="a file of weights, or a folder of ours")
    parser.add_argument("output", type=path_argument, help="a new folder or .safetensors file")
    parser.add_argument("--to", choices=("ours", "torch"), required=True)
    parser.add_argument("--image_size", type=int, nargs="+", help="side, or height and width")
    parser.add_argument("--patch_size", type=int)
    parser.add_argument("--grid", type=int, nargs=2, help="patches down and across of the input")
    parser.add_argument("--part", help="the entry of a checkpoint to take, as 'model'")
    parser.add_argument(
        "--encoder_only", action="store_true", help="leave out the decoder and the head"
    )
    parser.add_argument(
        "--float16", action="store_true", help="halve the bytes of a .safetensors file"
    )
    parser.add_argument(
        "--antialias",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="resample position embeddings as timm does; --no-antialias: as MAE's code does",
    )
    options = parser.parse_args(arguments)
    try:
        lines = convert(options)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for line in lines:
        say(line)
    return 0


def convert(options: argparse.Namespace) -> list[str]:
    """Reads, resizes, writes, reads back.

    Returns:
        Lines on what was read, changed, left out and written.
    """
    _check_output(options.output, options.to)
    if options.float16 and options.to == "ours":
        raise ValueError("--float16 is for --to=torch: folders of ours keep float32")
    read = _read_folder if options.input.is_dir() else _read_file
    source = read(options)
    architecture = describe(source.state, source.grid)
    lines = [*source.lines, f"model: {architecture}", f"size: {_size_name(architecture)}"]
    new_grid, patch_size = _wanted(options, architecture)
    state, notes = resized(source.state, architecture.grid, new_grid, patch_size, options.antialias)
    lines += [f"changed: {note}" for note in notes]
    if options.float16:
        state, note = _halved(state)
        lines.append(note)
    # Both ways: a missing or unexpected parameter is found whichever way is written.
    params = params_from_torch(state, describe(state, new_grid))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.to == "ours":
        export_params(options.output, params)
        written, expected = load_params(options.output), params
    else:
        write_weights(options.output, state)
        written, expected = read_weights(options.output).state, state
    return [*lines, _verified(options.output, flatten(written), flatten(expected))]


def _check_output(output: Path, to: str) -> None:
    if output.exists():
        raise ValueError(f"{output} exists: remove it, or name another")
    if to == "torch":
        check_writable(output)
    elif output.suffix in SUFFIXES:
        raise ValueError(f"{output}: ours is a folder; write files with --to=torch")


def _read_file(options: argparse.Namespace) -> Source:
    weights = read_weights(options.input, options.part)
    state, dropped = encoder_alone(weights.state) if options.encoder_only else (weights.state, [])
    where = f", in its part {weights.part!r}" if weights.part else ""
    lines = [
        f"read: {options.input}: {weights.layout}, {weights.size:,} bytes, "
        f"{_count(weights.state)}{where}"
    ]
    if weights.prefix:
        lines.append(f"taken off every name: {weights.prefix}")
    if weights.left_out:
        lines.append(f"left out, no parameters of the model: {', '.join(weights.left_out)}")
    if dropped:
        lines.append(f"left out, as --encoder_only says: {', '.join(dropped)}")
    grid = describe(state, tuple(options.grid) if options.grid else None).grid
    return Source(state, grid, lines)


def _read_folder(options: argparse.Namespace) -> Source:
    if options.part:
        raise ValueError(f"--part={options.part}: {options.input} is a folder, it has no parts")
    folder, params, stored_grid = read_ours(options.input)
    lines = [f"read: {folder}: ours, {_count(flatten(params))}"]
    if options.encoder_only and (dropped := sorted(set(params) - {"encoder"})):
        params = {"encoder": params["encoder"]}
        lines.append(f"left out, as --encoder_only says: {', '.join(dropped)}")
    grid = tuple(options.grid) if options.grid else stored_grid
    if grid is None and options.image_size and "encoder" in params:
        kernel = params["encoder"]["patch_embed"]["kernel"]
        grid = _grid_of(options.image_size, patch_of(kernel)[0])
    if grid is None:
        raise ValueError(
            f"{folder}: its position embedding is fixed and not stored: give --image_size"
        )
    return Source(params_to_torch(params, grid), grid, lines)


def _wanted(options: argparse.Namespace, architecture: Architecture) -> tuple[Grid, int]:
    """Grid and patch size of the output."""
    patch_size = options.patch_size or architecture.patch_size
    old = [n * architecture.patch_size for n in architecture.grid]
    return _grid_of(options.image_size or old, patch_size), patch_size


def _grid_of(image_size: Sequence[int], patch_size: int) -> Grid:
    height, width = image_size[0], image_size[-1]
    if len(image_size) > 2 or min(height, width, patch_size) < 1:
        raise ValueError(f"--image_size={image_size}, --patch_size={patch_size}: no image")
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"an image of {height} x {width} does not divide into patches of {patch_size}: choose "
            "--image_size or --patch_size otherwise"
        )
    return height // patch_size, width // patch_size


def _halved(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """The state in float16, and what that changes, in words.

    Raises:
        ValueError: If a number is too large for float16.
    """
    largest = np.finfo(np.float16).max
    for name, array in state.items():
        if np.abs(array).max(initial=0) > largest:
            raise ValueError(f"--float16: {name} holds numbers beyond {largest}; leave it out")
    halved = {name: array.astype(np.float16) for name, array in state.items()}
    error = max(float(np.abs(halved[name] - array).max(initial=0)) for name, array in state.items())
    return halved, f"changed: float16, which moves no number by more than {error:.2g}"


def _size_name(architecture: Architecture) -> str:
    for name, size in SIZES.items():
        if (size.width, size.depth) == (architecture.width, architecture.depth):
            return f"{name!r} ({size.heads} heads, as published; a file does not say)"
    return "none of ours; a file does not say how many heads it has"


def _count(state: Mapping[str, np.ndarray]) -> str:
    return f"{sum(a.size for a in state.values()):,} parameters in {len(state)} arrays"


def _verified(
    output: Path, written: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> str:
    def content(state: Mapping[str, np.ndarray], name: str) -> tuple[object, ...] | None:
        array = state.get(name)
        return None if array is None else (array.dtype, array.shape, array.tobytes())

    names = sorted({*written, *expected})
    differing = [name for name in names if content(written, name) != content(expected, name)]
    if differing:
        raise ValueError(f"{output}: read back, these differ from what was written: {differing}")
    return f"written: {output}: {_count(expected)}, read back equal bit for bit"


if __name__ == "__main__":
    sys.exit(enter(main))
